//! Resource limits (`prlimit(2)`), soft and hard.

use procfs::process::{LimitValue, Process};
use serde::{Deserialize, Serialize};

use crate::image::{Note, Obstacle};
use crate::state::credentials_of_self;
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State, TargetHost, insist};
use crate::sys::process::prlimit;
use crate::tracee::Batch;

const LIMIT_NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Soft and hard limits by resource number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits(pub Vec<(u64, u64)>);

/// The hard limit beyond which we can give none; none if we may raise it.
fn highest(resource: usize) -> Option<u64> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let may_raise = credentials_of_self().is_ok_and(|own| own.caps[2] >> CAP_SYS_RESOURCE & 1 == 1);
    let (_, hard) = prlimit(std::process::id() as i32, resource as u32, None).ok()?;
    (!may_raise).then_some(hard)
}

impl State for ResourceLimits {
    const NAME: &'static str = "limits";

    fn check(&self) -> Result<(), String> {
        insist(self.0.len() <= LIMIT_NAMES.len(), &format!("{} resource limits", self.0.len()))
    }
}

impl ProcessState for ResourceLimits {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Outside];

    /// `/proc/PID/limits` is readable where `prlimit` of another user's process is refused. Resources in the order of their
    /// numbers.
    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        let pid = seen.voice;
        let l = Process::new(pid).and_then(|p| p.limits()).map_err(StateError::proc(pid, "limits"))?;
        let value = |v: LimitValue| match v {
            LimitValue::Unlimited => u64::MAX,
            LimitValue::Value(v) => v,
        };
        let all = [
            l.max_cpu_time,
            l.max_file_size,
            l.max_data_size,
            l.max_stack_size,
            l.max_core_file_size,
            l.max_resident_set,
            l.max_processes,
            l.max_open_files,
            l.max_locked_memory,
            l.max_address_space,
            l.max_file_locks,
            l.max_pending_signals,
            l.max_msgqueue_size,
            l.max_nice_priority,
            l.max_realtime_priority,
            l.max_realtime_timeout,
        ];
        Ok(Self(all.map(|limit| (value(limit.soft_limit), value(limit.hard_limit))).to_vec()))
    }

    fn capture(seen: &SeenProcess<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Self::describe(seen).map(Captured::Seen)
    }

    /// Soft limits that are above what this host allows.
    fn obstacles_here(&self, _pid: i32, _host: &TargetHost) -> Vec<Obstacle> {
        let above = |(r, &(soft, _)): (usize, &(u64, u64))| {
            let hard = highest(r)?;
            (soft > hard).then(|| {
                Obstacle::new(
                    format!("resource limit {}", LIMIT_NAMES[r]),
                    format!("the process has a soft limit of {soft}, this host allows ulpm serve {hard} at the most"),
                    "start `ulpm serve` with a higher hard limit",
                )
            })
        };
        self.0.iter().enumerate().filter_map(above).collect()
    }

    /// Hard limits that it does not get back.
    fn notes_here(&self, pid: i32, _host: &TargetHost) -> Vec<Note> {
        let lower = |(r, &(soft, wanted)): (usize, &(u64, u64))| {
            let hard = highest(r)?;
            (soft <= hard && hard < wanted).then(|| {
                let wanted = if wanted == u64::MAX { "none".to_owned() } else { wanted.to_string() };
                let what = format!(
                    "its hard limit {} is {hard} at the target and no more {wanted}: ulpm serve may not raise it (CAP_SYS_RESOURCE)",
                    LIMIT_NAMES[r]
                );
                Note::new(format!("process {pid}"), what)
            })
        };
        self.0.iter().enumerate().filter_map(lower).collect()
    }

    /// A hard limit that we may not raise stays as it is here; preflight has made sure that the soft one fits.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        let pid = to.pid;
        for (r, &(soft, hard)) in self.0.iter().enumerate() {
            let step = || StateError::errno(pid, format!("setting the resource limit {}", LIMIT_NAMES[r]));
            let (have_soft, have_hard) = prlimit(pid, r as u32, None).map_err(step())?;
            if (have_soft, have_hard) == (soft, hard) {
                continue;
            }
            if prlimit(pid, r as u32, Some((soft, hard))).is_err() {
                prlimit(pid, r as u32, Some((soft, hard.min(have_hard)))).map_err(step())?;
            }
        }
        Ok(())
    }
}
