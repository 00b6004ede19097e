//! `feedline launch`: the same command on several ranks. Finds mpirun, passes the right flags, and after a death starts
//! the job again; what the ranks do is the command's own business.

use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::train::ranks::INSTALL;
use feedline::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(ClapArgs)]
pub struct Args {
    /// Number of ranks: processes that train together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// Machines and how many ranks each gets, e.g. a:2,b:2; they must be reachable by ssh, with feedline and the data
    /// at the same paths
    #[arg(long, value_name = "HOSTS")]
    hosts: Option<String>,
    /// After a death, start again from the last checkpoint up to so many times; needs --out DIR in the command
    #[arg(long, value_name = "K", default_value_t = 0)]
    max_restarts: u32,
    /// After Ctrl-C or SIGTERM, give the ranks so long to save a checkpoint
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace_seconds: u32,
    /// The command, e.g. train --data DIR
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Exit codes that another attempt cannot mend: wrong settings or data, a checkpoint that does not fit, a build that
/// cannot; and those that are no failure.
const FINAL: [i32; 8] = [0, 2, 3, 4, 6, 7, 130, 143];

/// Time for which mpirun may outlive the ranks that it started on this machine.
const UNREACHABLE: Duration = Duration::from_secs(10);

pub fn run(args: Args) -> Result<Done> {
    let mpirun = find_mpirun()?;
    let mut command = args.command.clone();
    if args.max_restarts > 0 {
        let names = |flag: &str| {
            let equals = format!("{flag}=");
            command.iter().any(|word| word == flag || word.to_string_lossy().starts_with(&equals))
        };
        if !names("--out") {
            return Err(Error::config(
                "--max-restarts needs --out DIR in the command",
                "Every attempt must find the same run: feedline launch --max-restarts 3 ... -- train --out DIR ...",
            ));
        }
        if !names("--resume") {
            command.extend(["--resume".into(), "auto".into()]);
        }
    }
    // Signals come to this process alone; the ranks hear of them from mpirun.
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
            .map_err(|e| Error::config(format!("cannot watch for signal {number}: {e}"), "Please report this"))?;
    }
    let grace = Duration::from_secs(args.grace_seconds.into());
    let mut restarts = 0;
    loop {
        let began = Instant::now();
        let mut job = mpirun_command(&mpirun, &args)?;
        let child = job.args(&command).spawn().map_err(|e| Error::io("start", &mpirun, e))?;
        let code = wait(child, &signal, grace)?;
        if FINAL.contains(&code) || code == 128 + SIGHUP {
            return Ok(Done::Code(code));
        }
        let how = match code {
            129..160 => format!("a rank was killed by signal {}", code - 128),
            _ => format!("a rank failed with exit code {code}"),
        };
        let after = format!("{how}; the job was ended after {:.1} s", began.elapsed().as_secs_f64());
        if restarts == args.max_restarts {
            feedline::say!("launch: {after}; what was saved before is untouched");
            return Ok(Done::Code(code));
        }
        restarts += 1;
        feedline::say!(
            "launch: {after}; starting again from the last checkpoint ({restarts} of {})",
            args.max_restarts
        );
    }
}

fn find_mpirun() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("mpirun")).find(|file| file.is_file());
    found.ok_or_else(|| Error::Unsupported {
        what: "training on several ranks without mpirun".into(),
        remedy: INSTALL.into(),
    })
}

/// mpirun with all its flags, up to the name of this program.
fn mpirun_command(mpirun: &PathBuf, args: &Args) -> Result<Command> {
    if !cfg!(feature = "mpi") {
        return Err(Error::Unsupported {
            what: "training on several ranks in a build without MPI".into(),
            remedy: INSTALL.into(),
        });
    }
    let program = std::env::current_exe().map_err(|e| Error::io("find", "this program", e))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    // Of the ranks on this machine, if machines are named: nothing is known of the others.
    let local = match &args.hosts {
        Some(hosts) => args.ranks.div_ceil(hosts.split(',').count() as u32),
        None => args.ranks,
    };
    let mut job = Command::new(mpirun);
    // A group of its own: a Ctrl-C at the terminal must reach mpirun from here only, since it would kill the ranks.
    job.process_group(0).stdin(Stdio::null());
    job.args(["-n", &args.ranks.to_string(), "--oversubscribe", "--bind-to", "none"]);
    if let Some(hosts) = &args.hosts {
        job.args(["--host", hosts]);
    }
    let mca = [
        // A rank that waits lets the others work, where there are more of them than cores.
        ("mpi_yield_when_idle", u32::from(local >= cores).to_string()),
        // Notice a machine that is gone after about 20 seconds, not after minutes.
        ("oob_tcp_keepalive_time", "10".into()),
        ("oob_tcp_keepalive_intvl", "3".into()),
        ("oob_tcp_keepalive_probes", "3".into()),
        // Copying straight from another process is forbidden in most containers, and warned about.
        ("btl_vader_single_copy_mechanism", "none".into()),
    ];
    for (key, value) in &mca {
        job.args(["--mca", key, value]);
    }
    // Threads of the tensor engine; data workers are counted by the command.
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| (cores / local).max(1).to_string());
    job.args(["-x", &format!("RAYON_NUM_THREADS={threads}")]);
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        job.env(name, "1"); // containers have no other user
    }
    if std::env::var_os(feedline::train::ranks::TIMEOUT_VARIABLE).is_some() {
        job.args(["-x", feedline::train::ranks::TIMEOUT_VARIABLE]);
    }
    job.arg(program);
    Ok(job)
}

/// Waits for the end of the job. A signal asks the ranks to save and stop; after the grace period, or at another signal,
/// mpirun ends them.
fn wait(mut child: Child, signal: &AtomicUsize, grace: Duration) -> Result<i32> {
    let tell = |child: &Child, name: &str| {
        let _ = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    };
    let (mut asked, mut number) = (None, 0);
    let (mut had_ranks, mut without) = (false, None);
    loop {
        if let Some(status) = child.try_wait().map_err(|e| Error::io("wait for", "mpirun", e))? {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(if number > 0 { 128 + number } else { code });
        }
        // If the network to another machine fails, mpirun waits for that machine for ever.
        let has_ranks = has_ranks(child.id());
        had_ranks |= has_ranks;
        without = if has_ranks || !had_ranks { None } else { without.or(Some(Instant::now())) };
        if without.is_some_and(|since| since.elapsed() > UNREACHABLE) {
            feedline::say!(
                "launch: the ranks of this machine have ended, but mpirun has not: it cannot reach another machine. \
                 Ranks there end when they miss the others; what was saved before is untouched"
            );
            tell(&child, "KILL");
            let _ = child.wait();
            return Ok(9);
        }
        match (signal.swap(0, Ordering::Relaxed) as i32, asked) {
            (0, Some(since)) if Instant::now().duration_since(since) > grace => {
                feedline::say!("launch: no end after {grace:?} of grace; what was saved before is untouched");
                tell(&child, "TERM");
                asked = Some(Instant::now());
            }
            (0, _) => {}
            (new, None) => {
                number = new;
                tell(&child, "USR1"); // which mpirun passes on to every rank
                asked = Some(Instant::now());
            }
            (_, Some(_)) => tell(&child, "TERM"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True if mpirun has processes of this program under it; known on Linux only.
fn has_ranks(mpirun: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{mpirun}/task/{mpirun}/children")).unwrap_or_default();
    let program = std::env::current_exe().ok();
    children.split_whitespace().any(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok() == program)
}
