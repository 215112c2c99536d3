//! The whole list again and again: `ULPM_FAULT_RUNS=2000 cargo test --test moves -- "fault long"` does so many runs, three labs at a
//! time, and writes the table of docs/faults.md to `ULPM_FAULT_TABLE`; `ULPM_FAULT_FROM=N` begins with the N-th, where an earlier run
//! has ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

use super::{End, LAB, WORKLOADS, cases, run};
use crate::lab::Lab;

/// Runs in one lab. The pids of its two hosts must not meet, else the process gets another one at the target, where it
/// is not found: the `threads` victim takes up to 2,000 in a run, and there are 15,000 between them.
const RUNS_PER_LAB: usize = 6;

/// How the runs at one point ended.
#[derive(Default)]
struct Count {
    runs: u32,
    source: u32,
    target: u32,
    with_host: u32,
    doubled: u32,
    lost: u32,
    other: u32,
}

pub(super) fn long(runs: Range<usize>) -> Result<()> {
    let next = AtomicUsize::new(runs.start);
    let table: Mutex<BTreeMap<(bool, &'static str), Count>> = Mutex::new(BTreeMap::new());
    let failures = Mutex::new(Vec::new());
    let all = cases();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while next.load(Ordering::SeqCst) < runs.end {
                    let Ok(mut lab) = Lab::with(&LAB) else {
                        continue;
                    };
                    for _ in 0..RUNS_PER_LAB {
                        let i = next.fetch_add(1, Ordering::SeqCst);
                        if i >= runs.end {
                            break;
                        }
                        // a stride that meets every case with every workload
                        let (case, workload) =
                            (all[i % all.len()], WORKLOADS[i / all.len() % WORKLOADS.len()]);
                        let ended = run(&mut lab, case, workload);
                        let failed = ended.is_err();
                        if let Err(error) = &ended {
                            let text = format!("run {i}: {error:#}\n{}", lab.dump());
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                        }
                        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                        table.entry((!case.at_source(), case.point)).or_default().add(&ended);
                        write_out(&table, &failures);
                        if failed {
                            break;
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} runs failed, the first: {}", failures.len(), failures[0]);
    Ok(())
}

impl Count {
    fn add(&mut self, ended: &Result<End>) {
        self.runs += 1;
        match ended {
            Ok(End::Source) => self.source += 1,
            Ok(End::Target) => self.target += 1,
            Ok(End::WithItsHost) => self.with_host += 1,
            Err(e) if format!("{e:#}").contains("DOUBLED") => self.doubled += 1,
            Err(e) if format!("{e:#}").contains("LOST") => self.lost += 1,
            Err(_) => self.other += 1,
        }
    }
}

fn write_out(table: &BTreeMap<(bool, &'static str), Count>, failures: &Mutex<Vec<String>>) {
    let Some(path) = std::env::var_os("ULPM_FAULT_TABLE") else { return };
    let mut text = String::from(
        "| fault point | side | runs | ended at source | at target | with its host | doubled | lost | not settled |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut sum = Count::default();
    for ((target, point), c) in table {
        let side = if *target { "target" } else { "source" };
        let _ = writeln!(
            text,
            "| `{point}` | {side} | {} | {} | {} | {} | {} | {} | {} |",
            c.runs, c.source, c.target, c.with_host, c.doubled, c.lost, c.other
        );
        sum.runs += c.runs;
        sum.source += c.source;
        sum.target += c.target;
        sum.with_host += c.with_host;
        sum.doubled += c.doubled;
        sum.lost += c.lost;
        sum.other += c.other;
    }
    let _ = writeln!(
        text,
        "| all | | {} | {} | {} | {} | {} | {} | {} |",
        sum.runs, sum.source, sum.target, sum.with_host, sum.doubled, sum.lost, sum.other
    );
    for failure in failures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(text, "\n{failure}");
    }
    let _ = fs::write(path, text);
}
