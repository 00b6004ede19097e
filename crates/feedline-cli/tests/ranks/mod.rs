//! Several ranks: real processes under a real mpirun, kills, other numbers of ranks, a network that is cut.

use super::clouds::{clouds, streets};
use super::scenes::{rooms, scenes};
use super::{
    copy_of_data, data, events, expect, feedline, final_model, losses, run, short, steps_reported, wait_for_steps,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A lock if this build can train on several ranks here, else `None`. One test at a time: each has as many processes as
/// there are cores, or more.
fn mpi() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !cfg!(feature = "mpi") || !found {
        eprintln!("skipped: ranks need Open MPI, and a build with --features mpi");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// `command` on `ranks` ranks, one thread and one worker each.
fn launch(ranks: &str, more: &[&str], command: &[&str]) -> Command {
    let mut words = vec!["launch", "--ranks", ranks];
    words.extend(more);
    words.push("--");
    words.extend(command);
    if command[0] == "train" {
        words.extend(["--num-workers", "1"]);
    }
    let mut command = feedline(&words);
    command.env("RAYON_NUM_THREADS", "1");
    command
}

/// Process number of a rank of the run in `out`.
fn pid_of(rank: u64, out: &Path) -> Option<String> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let holds = |file: &str, text: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        let is_rank = holds("cmdline", out.to_str()?)
            && !holds("cmdline", "launch")
            && holds("environ", &format!("OMPI_COMM_WORLD_RANK={rank}\0"));
        is_rank.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

/// The end of a process, which must come within `seconds`.
fn end(mut child: Child, seconds: u64) -> Output {
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(seconds) {
            signal("-KILL", &child.id().to_string());
            panic!("no end within {seconds} s: {}", String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn proved(out: &Path) {
    let output = run(&["verify", out.to_str().unwrap()]);
    let words = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("each of 96 samples exactly once") && words.contains("proved"), "{words}");
}

#[test]
fn ranks_sum_up_right_on_any_number() {
    let Some(_turn) = mpi() else { return };
    for ranks in ["1", "2", "3", "4"] {
        let output = launch(ranks, &[], &["bench", "--all-reduce"]).output().unwrap();
        expect(&output, 0, &["all sums are right, and the same on every rank", &format!("{ranks} ranks")]);
    }
}

#[test]
fn any_number_of_ranks_trains_on_the_same_batches() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    let trained = |ranks: &str| -> BTreeMap<(u64, u64), f64> {
        let out = dir.path().join(ranks);
        let command = [&short(data(), &out)[..], &["--sync-bn"]].concat();
        expect(&launch(ranks, &[], &command).output().unwrap(), 0, &[]);
        proved(&out);
        losses(&out).into_iter().map(|(step, loss)| (step, loss.parse().unwrap())).collect()
    };
    let one = trained("1");
    assert_eq!(one.len(), 3 * 6 + 3);
    for ranks in ["2", "4"] {
        let many = trained(ranks);
        assert_eq!(many.len(), one.len());
        for ((epoch, step), loss) in &many {
            let expect = one[&(*epoch, *step)];
            // Sums of f32 in another order; training makes more of a difference with every step.
            let tolerance = if *epoch == 1 && *step < 3 { 1e-5 } else { 0.05 };
            assert!((loss - expect).abs() <= tolerance * expect, "{ranks} ranks, {epoch}/{step}: {loss} {expect}");
        }
    }
    let output = launch("3", &[], &short(data(), &dir.path().join("3"))).output().unwrap();
    expect(&output, 2, &["a batch of 16 does not divide by 3 ranks", "Use 15 or 18"]);
    assert!(!dir.path().join("3").join("checkpoints").exists());
}

#[test]
fn a_killed_rank_ends_the_job_and_any_number_of_ranks_goes_on() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    expect(&launch("2", &[], &short(data(), &whole)).output().unwrap(), 0, &[]);
    for (rank, steps) in [(0, 3), (1, 7)] {
        let out = dir.path().join(format!("killed{rank}"));
        let kill = |ranks: &str, command: &[&str], rank: u64, steps: usize| {
            let mut child = launch(ranks, &[], command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for_steps(&out, steps_reported(&out) + steps, &mut child);
            signal("-KILL", &pid_of(rank, &out).unwrap());
            expect(&end(child, 20), 137, &["a rank was killed by signal 9", "untouched"]);
        };
        kill("2", &short(data(), &out), rank, steps);
        // The same number of ranks: bit for bit the run that was never killed.
        let resume = ["train", "--resume", out.to_str().unwrap()];
        expect(&launch("2", &[], &resume).output().unwrap(), 0, &[]);
        assert_eq!(final_model(&out), final_model(&whole));
        proved(&out);
    }

    // Other numbers, another batch: killed on 2, ended by SIGTERM on 3, finished on 1.
    let out = dir.path().join("elastic");
    let mut child =
        launch("2", &[], &short(data(), &out)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&out, 4, &mut child);
    signal("-KILL", &pid_of(1, &out).unwrap());
    expect(&end(child, 20), 137, &[]);
    let resume = ["train", "--resume", out.to_str().unwrap(), "--batch-size", "12"];
    let mut child = launch("3", &[], &resume).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&out, steps_reported(&out) + 3, &mut child);
    signal("-TERM", &child.id().to_string());
    expect(&end(child, 20), 143, &["a checkpoint is saved"]);
    expect(&run(&resume[..3]), 0, &[]);
    proved(&out);
    let text = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(text.contains("batch_size = 12"), "{text}");
}

#[test]
fn launch_starts_again_after_a_death() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    // What all ranks cannot do is told by one of them.
    let nowhere = launch("2", &[], &short(&dir.path().join("nowhere"), &out)).output().unwrap();
    expect(&nowhere, 3, &["error: rank 0 of 2", "nowhere"]);
    assert_eq!(String::from_utf8_lossy(&nowhere.stderr).matches("error: rank").count(), 1);
    let mut child = launch("2", &["--max-restarts", "2"], &short(data(), &out))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_steps(&out, 5, &mut child);
    signal("-KILL", &pid_of(1, &out).unwrap());
    expect(&end(child, 60), 0, &["starting again from the last checkpoint (1 of 2)", "validation accuracy"]);
    assert_eq!(events(&out).iter().filter(|event| event["event"] == "resumed").count(), 1);
    proved(&out);
    let output = launch("2", &["--max-restarts", "2"], &["train"]).output().unwrap();
    expect(&output, 2, &["--max-restarts needs --out DIR"]);
}

#[test]
fn ranks_with_different_data_do_not_begin() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = copy_of_data(&dir.path().join("other"));
    fs::remove_file(other.join("train/star/0001.jpg")).unwrap();
    let out = dir.path().join("run");
    // Simulates a machine with an old copy of the data: the same command, other files.
    let script = format!(
        "test $OMPI_COMM_WORLD_RANK = 1 && data={} || data={}; exec {} train --data $data --out {} --epochs 1",
        other.display(),
        data().display(),
        env!("CARGO_BIN_EXE_feedline"),
        out.display()
    );
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--oversubscribe", "-n", "2", "sh", "-c", &script]);
    let output = mpirun
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    expect(&output, 9, &["rank 1 differs from rank 0 in the training data"]);
    assert!(!out.join("checkpoints").exists());
}

/// Two network namespaces with a cable between them, gone when dropped.
struct TwoMachines(&'static [&'static str; 2]);

impl TwoMachines {
    /// `None` without the right to make them.
    fn new(agent: &Path) -> Option<TwoMachines> {
        let machines = TwoMachines(&["feedline-a", "feedline-b"]);
        let script = "set -e; ip netns add feedline-a; ip netns add feedline-b
            ip link add feeda netns feedline-a type veth peer name feedb netns feedline-b
            for x in a:1 b:2; do n=${x%:*}
                ip -n feedline-$n addr add 10.77.0.${x#*:}/24 dev feed$n
                ip -n feedline-$n link set feed$n up; ip -n feedline-$n link set lo up
            done; ip netns exec feedline-a unshare -u true";
        let made = Command::new("sh").args(["-c", script]).output().ok()?;
        if !made.status.success() {
            eprintln!("skipped: no right to make network namespaces: {}", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        // A stand-in for ssh.
        let text = "#!/bin/sh\nshift\nexec ip netns exec feedline-b unshare -u sh -c \"hostname machine-b; $*\"\n";
        fs::write(agent, text).unwrap();
        signal_free(Command::new("chmod").arg("+x").arg(agent));
        Some(machines)
    }

    fn pids(machine: &str) -> String {
        let output = Command::new("ip").args(["netns", "pids", machine]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Processes of this program on the machine.
    fn ranks(machine: &str) -> usize {
        let program = Path::new(env!("CARGO_BIN_EXE_feedline"));
        let is_rank = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        TwoMachines::pids(machine).split_whitespace().filter(|pid| is_rank(pid)).count()
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for machine in self.0 {
            for pid in TwoMachines::pids(machine).split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", machine]).output();
        }
    }
}

fn signal_free(command: &mut Command) {
    assert!(command.status().unwrap().success());
}

#[test]
fn two_machines_sum_up_and_a_cut_cable_ends_both() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    let agent = dir.path().join("agent.sh");
    let Some(_machines) = TwoMachines::new(&agent) else { return };
    let start = |seconds: &str| {
        let script = format!(
            "hostname machine-a; exec {} launch --ranks 2 --hosts 10.77.0.1:1,10.77.0.2:1 -- bench --all-reduce \
             --seconds {seconds}",
            env!("CARGO_BIN_EXE_feedline")
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "feedline-a", "unshare", "-u", "sh", "-c", &script]);
        for (key, value) in [
            ("OMPI_MCA_plm_rsh_agent", agent.to_str().unwrap()),
            ("OMPI_MCA_plm_rsh_no_tree_spawn", "1"),
            ("OMPI_MCA_btl", "tcp,self"),
            ("OMPI_MCA_btl_tcp_if_include", "10.77.0.0/24"),
            ("OMPI_MCA_oob_tcp_if_include", "10.77.0.0/24"),
            ("FEEDLINE_GROUP_TIMEOUT_S", "3"),
        ] {
            command.env(key, value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    expect(&end(start("0"), 120), 0, &["2 ranks", "all sums are right, and the same on every rank"]);

    let child = start("600");
    let since = Instant::now();
    while TwoMachines::ranks("feedline-b") == 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "no rank on the other machine");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    signal_free(Command::new("ip").args(["-n", "feedline-a", "link", "set", "feeda", "down"]));
    let message = "no answer from the other ranks for 3s";
    expect(&end(child, 60), 9, &[message, "it cannot reach another machine"]);
    let since = Instant::now();
    while TwoMachines::ranks("feedline-b") > 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "the rank of the other machine goes on alone");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_started_as_one_of_several_never_trains_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let train = |variables: &[(&str, &str)]| {
        let mut command = feedline(&short(data(), &out));
        command.envs(variables.iter().copied()).output().unwrap()
    };
    expect(&train(&[("RANK", "1"), ("WORLD_SIZE", "2")]), 7, &["rank 1 of 2", "torchrun is for programs in Python"]);
    expect(&train(&[("RANK", "2"), ("WORLD_SIZE", "2")]), 2, &["RANK is 2, not below WORLD_SIZE"]);
    if cfg!(not(feature = "mpi")) {
        let variables = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        expect(&train(&variables), 7, &["in a build without MPI", "libopenmpi-dev"]);
        expect(&run(&["launch", "--ranks", "2", "--", "train"]), 7, &["libopenmpi-dev"]);
    }
    assert!(!out.exists());
}

/// A run on two ranks has the losses of one alone, and is proved; `words` are among its last.
fn two_ranks_train_as_one(
    data: &Path,
    args: for<'a> fn(&'a Path, &'a Path) -> Vec<&'a str>,
    steps: usize,
    words: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let [alone, two] = ["alone", "two"].map(|name| dir.path().join(name));
    expect(&run(&args(data, &alone)), 0, &[]);
    let args = args(data, &two);
    // `launch` of these tests says the number of workers itself.
    let workers = args.iter().position(|arg| *arg == "--num-workers").unwrap();
    let args = [&args[..workers], &args[workers + 2..]].concat();
    expect(&launch("2", &[], &args).output().unwrap(), 0, &["2 ranks", words]);
    let [alone, of_two] = [&alone, &two].map(|out| losses(out));
    assert!(alone.len() == steps && alone.keys().eq(of_two.keys()));
    for (one, other) in alone.values().zip(of_two.values()) {
        let [one, other]: [f64; 2] = [one, other].map(|loss| loss.parse().unwrap());
        assert!((one - other).abs() < 1e-3 * one, "{alone:?} {of_two:?}");
    }
    expect(&run(&["verify", two.to_str().unwrap()]), 0, &[]);
}

#[test]
fn two_ranks_complete_scenes_as_one_does() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    two_ranks_train_as_one(&rooms(dir.path()), scenes, 18, "validation SSC mIoU");
}

#[test]
fn two_ranks_find_boxes_as_one_does() {
    let Some(_turn) = mpi() else { return };
    let dir = tempfile::tempdir().unwrap();
    two_ranks_train_as_one(&streets(dir.path()), clouds, 15, "validation mean AP in space");
}
