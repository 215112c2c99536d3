//! The table of verdicts (`src/state/verdicts`) held against the kernel and against moves.
//!
//! | file | what it shows |
//! |---|---|
//! | [`kernel`] | whatever this kernel shows of a process has a row |
//! | [`differences`] | whatever differs after a move, an aborted move or a profile has a row that says so |

mod differences;
mod kernel;
mod snapshot;

use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = kernel::trials();
    trials.extend(differences::trials());
    trials
}
