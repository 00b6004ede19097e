//! Finds the rank of this process and the number of ranks. Owns the rules that tell launchers apart; a loader needs
//! none of them: it gets the rank as an argument.

pub use super::group::TIMEOUT_VARIABLE;

use super::group::{Group, SingleRank};
use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// Instructions for a build that can train on several ranks.
pub const INSTALL: &str = "On Debian and Ubuntu: `apt install libopenmpi-dev openmpi-bin clang libclang-dev`, then \
    `cargo install --locked --path crates/feedline-cli --features mpi`";

/// The source of the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Arguments of the caller.
    Explicit,
    /// A group that existed already.
    Group,
    /// RANK and WORLD_SIZE.
    Torchrun,
    /// SLURM_PROCID of a step that srun started.
    Slurm,
    /// OMPI_COMM_WORLD_RANK and _SIZE.
    OpenMpi,
    /// PMI_RANK and PMI_SIZE, or MV2_COMM_WORLD_RANK and _SIZE.
    Pmi,
    /// None of these: one rank.
    SingleRank,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Explicit => "as the arguments say",
            Rule::Group => "as the group says that was there already",
            Rule::Torchrun => "as RANK and WORLD_SIZE say (torchrun)",
            Rule::Slurm => "as SLURM_PROCID says (srun)",
            Rule::OpenMpi => "as OMPI_COMM_WORLD_RANK says (mpirun)",
            Rule::Pmi => "as PMI_RANK says",
            Rule::SingleRank => "no launcher",
        })
    }
}

/// The place of this process among the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    pub rank: u64,
    pub world_size: u64,
    /// Its number among the ranks of its machine, and their number, if the launcher tells.
    pub local: Option<(u64, u64)>,
    pub rule: Rule,
}

/// Finds the place of this process: from the arguments, else an existing group, else the variables of launchers
/// (torchrun, Slurm, Open MPI, PMI), else it is alone. `env` looks up a variable.
///
/// Slurm counts only in a step of srun: a shell of `salloc` or a script of `sbatch` has SLURM_NTASKS too, but is one
/// process. If mpirun was started inside Slurm, mpirun's variables count: Slurm's belong to its helpers.
///
/// # Errors
/// Contradictions: a rank not below the world size, one missing of a pair, a value that is no number, two sources that
/// disagree.
pub fn discover(
    explicit: Option<(u64, u64)>,
    group: Option<(u64, u64)>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Ranks> {
    let number = |name: &str| -> Result<Option<u64>> {
        let Some(text) = env(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let wrong = |_| Error::config(format!("{name} is {text:?}, not a number"), "Correct or unset it");
        text.trim().parse().map(Some).map_err(wrong)
    };
    let pair = |rank: &str, size: &str| -> Result<Option<(u64, u64)>> {
        match (number(rank)?, number(size)?) {
            (Some(found), Some(of)) if found >= of => Err(Error::config(
                format!("{rank} is {found}, not below {size}, which is {of}"),
                "Ranks are counted from 0; correct or unset both",
            )),
            (Some(found), Some(of)) => Ok(Some((found, of))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Error::config(format!("{rank} is set, {size} is not"), "Set both or none")),
            (None, Some(_)) => Err(Error::config(format!("{size} is set, {rank} is not"), "Set both or none")),
        }
    };

    let torchrun = pair("RANK", "WORLD_SIZE")?;
    let open_mpi = pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")?;
    let pmi = match pair("PMI_RANK", "PMI_SIZE")? {
        None => pair("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")?,
        found => found,
    };
    let in_step = env("SLURM_STEP_ID").is_some()
        && !matches!(env("SLURM_JOB_NAME").as_deref(), Some("bash" | "interactive"))
        && open_mpi.is_none();
    let slurm = match (in_step, env("SLURM_STEP_NUM_TASKS")) {
        (false, _) => None,
        (true, Some(_)) => pair("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")?,
        (true, None) => pair("SLURM_PROCID", "SLURM_NTASKS")?,
    };
    let told = [
        (Rule::Torchrun, torchrun, "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        (Rule::Slurm, slurm, "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
        (Rule::OpenMpi, open_mpi, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        (Rule::Pmi, pmi, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ];
    let mut found: Option<Ranks> = None;
    for (rule, place, local_rank, local_size) in told {
        let Some((rank, world_size)) = place else { continue };
        match &found {
            Some(first) if (first.rank, first.world_size) != (rank, world_size) => {
                return Err(Error::config(
                    format!(
                        "two launchers disagree: rank {} of {} {}, rank {rank} of {world_size} {rule}",
                        first.rank, first.world_size, first.rule
                    ),
                    "Start with one launcher, or unset the variables of the other",
                ));
            }
            Some(_) => {}
            None => {
                let local = number(local_rank)?.zip(number(local_size)?);
                found = Some(Ranks { rank, world_size, local, rule });
            }
        }
    }

    let given = |(rank, world_size): (u64, u64), rule| {
        if rank >= world_size {
            return Err(Error::config(
                format!("Invalid rank {rank}, rank should be in the interval [0, {}]", world_size.saturating_sub(1)),
                "Ranks are counted from 0",
            ));
        }
        // If the launcher agrees, its place within the machine is valid, too.
        let local = found.filter(|found| (found.rank, found.world_size) == (rank, world_size));
        Ok(Ranks { rank, world_size, local: local.and_then(|found| found.local), rule })
    };
    match (explicit, group) {
        (Some(explicit), Some(group)) if explicit != group => Err(Error::config(
            format!("the arguments say rank {} of {}, the group {} of {}", explicit.0, explicit.1, group.0, group.1),
            "Leave the arguments out, or correct them",
        )),
        (Some(explicit), _) => given(explicit, Rule::Explicit),
        (None, Some(group)) => given(group, Rule::Group),
        (None, None) => Ok(found.unwrap_or(Ranks { rank: 0, world_size: 1, local: None, rule: Rule::SingleRank })),
    }
}

/// Finds this process's place and joins the others, if there are any. Call it once, on the thread that trains.
///
/// # Errors
/// As [`discover`]; several ranks in a build without MPI, or of torchrun; an MPI that counts differently from the
/// launcher. Never continues alone if others train beside it.
pub fn join() -> Result<(Arc<dyn Group>, Ranks)> {
    let ranks = discover(None, None, &|name| std::env::var(name).ok())?;
    let Ranks { rank, world_size, rule, .. } = ranks;
    if world_size == 1 {
        return Ok((Arc::new(SingleRank), ranks));
    }
    if rule == Rule::Torchrun {
        return Err(Error::Unsupported {
            what: format!("training as rank {rank} of {world_size} {rule}"),
            remedy: "torchrun is for programs in Python; start this one by `feedline launch --ranks N -- train ...`, \
                     mpirun or srun"
                .into(),
        });
    }
    #[cfg(feature = "mpi")]
    {
        let group = super::mpi::MpiGroup::start()?;
        if (group.rank(), group.world_size()) != (rank, world_size) {
            let error = Error::group(
                format!(
                    "rank {rank} of {world_size} {rule}, but rank {} of {} for MPI",
                    group.rank(),
                    group.world_size()
                ),
                "The launcher and the MPI library do not know each other; with srun say --mpi=pmix, or use mpirun",
            );
            return Err(error);
        }
        Ok((Arc::new(group), ranks))
    }
    #[cfg(not(feature = "mpi"))]
    Err(Error::Unsupported {
        what: format!("training as rank {rank} of {world_size} {rule} in a build without MPI"),
        remedy: INSTALL.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = &'static [(&'static str, &'static str)];

    fn look(explicit: Option<(u64, u64)>, group: Option<(u64, u64)>, variables: &[(&str, &str)]) -> Result<Ranks> {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        discover(explicit, group, &env)
    }

    const TORCHRUN: [(&str, &str); 4] =
        [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];

    #[test]
    fn arguments_come_first_then_a_group_then_the_launchers_in_order() {
        let found = look(Some((0, 2)), None, &TORCHRUN).unwrap();
        assert_eq!((found.rank, found.world_size, found.local, found.rule), (0, 2, None, Rule::Explicit));
        assert_eq!(look(Some((1, 2)), Some((1, 2)), &TORCHRUN).unwrap().rule, Rule::Explicit);
        assert_eq!(
            look(None, Some((3, 4)), &TORCHRUN).unwrap(),
            Ranks { rank: 3, world_size: 4, local: Some((1, 2)), rule: Rule::Group }
        );
        let found = look(None, None, &TORCHRUN).unwrap();
        assert_eq!((found.rank, found.world_size, found.local), (3, 4, Some((1, 2))));
        assert!(found.rule.to_string().contains("torchrun"));
        let cases: [(Variables, (u64, u64, Rule)); 5] = [
            (&[], (0, 1, Rule::SingleRank)),
            (&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "2"), ("SLURM_NTASKS", "8")], (2, 8, Rule::Slurm)),
            (&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")], (1, 2, Rule::OpenMpi)),
            (&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], (1, 2, Rule::Pmi)),
            (&[("MV2_COMM_WORLD_RANK", "1"), ("MV2_COMM_WORLD_SIZE", "2")], (1, 2, Rule::Pmi)),
        ];
        for (variables, expect) in cases {
            let found = look(None, None, variables).unwrap();
            assert_eq!((found.rank, found.world_size, found.rule), expect, "{variables:?}");
        }
    }

    #[test]
    fn what_looks_like_ranks_and_is_none_is_not_taken_for_them() {
        let alone: [Variables; 5] = [
            // A shell of salloc, a script of sbatch: many tasks are allocated, this is one process.
            &[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")],
            &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_NAME", "interactive")],
            // Some loaders read these instead of RANK.
            &[("GLOBAL_RANK", "3"), ("NODE_RANK", "1"), ("NNODES", "2")],
            &[("LOCAL_RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")],
            &[("RANK", ""), ("WORLD_SIZE", "")],
        ];
        for variables in alone {
            let found = look(None, None, variables).unwrap();
            assert_eq!((found.rank, found.world_size), (0, 1), "{variables:?}");
        }
        // mpirun inside Slurm starts one helper per machine by srun: Slurm's variables are not this rank's.
        let variables = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
        ];
        let found = look(None, None, &variables).unwrap();
        assert_eq!((found.rank, found.world_size, found.rule), (5, 8, Rule::OpenMpi));
    }

    #[test]
    fn contradictions_are_errors() {
        let cases: [(Variables, &str); 5] = [
            (&[("RANK", "4"), ("WORLD_SIZE", "4")], "RANK is 4, not below WORLD_SIZE"),
            (&[("WORLD_SIZE", "4")], "WORLD_SIZE is set, RANK is not"),
            (&[("RANK", "0")], "RANK is set, WORLD_SIZE is not"),
            (&[("RANK", "one"), ("WORLD_SIZE", "4")], "not a number"),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")],
                "two launchers disagree: rank 0 of 2",
            ),
        ];
        for (variables, part) in cases {
            let error = look(None, None, variables).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = look(Some((0, 2)), Some((1, 2)), &[]).unwrap_err().to_string();
        assert!(error.contains("the arguments say rank 0 of 2, the group 1 of 2"), "{error}");
        assert!(look(Some((2, 2)), None, &[]).unwrap_err().to_string().contains("Invalid rank 2"));
    }
}
