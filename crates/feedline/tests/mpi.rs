//! A rank that panics: real processes under a real mpirun.
#![cfg(feature = "mpi")]

use feedline::train::group::Group;
use feedline::train::mpi::MpiGroup;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What each rank of the test below does.
fn run_as_a_rank() {
    let group = MpiGroup::start().unwrap();
    assert_eq!(group.world_size(), 2);
    assert!(group.rank() == 0, "rank 1 panics on purpose");
    group.barrier().unwrap();
    unreachable!("rank 1 never comes to the barrier");
}

#[test]
fn a_rank_that_panics_ends_the_others() {
    if std::env::var_os("OMPI_COMM_WORLD_RANK").is_some() {
        return run_as_a_rank();
    }
    let program = std::env::current_exe().unwrap();
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--oversubscribe", "--bind-to", "none", "-n", "2"]).arg(program);
    mpirun.args(["--exact", "a_rank_that_panics_ends_the_others", "--nocapture"]);
    mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let mut job = match mpirun.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn() {
        Ok(job) => job,
        Err(error) => return eprintln!("skipped: there is no mpirun: {error}"),
    };
    let since = Instant::now();
    while job.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(30) {
            job.kill().unwrap();
            panic!("the job hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = job.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{words}");
    assert!(words.contains("rank 1 panics on purpose"), "{words}");
}
