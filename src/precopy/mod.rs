//! The source's session from hello to report: the round loop, when to stop it, the freeze, the commit.
//!
//! | file | owns |
//! |---|---|
//! | [`destination`] | whoever the session talks to, as a trait |
//! | `link` | a destination that is another host |
//! | `foresight` | what a prediction rests on, measured on the spot |
//! | `options` | what the user wants of a migration, what is told of it |
//! | `cancel` | a user's wish that it ends |
//! | [`session`] | the steps in order |
//! | `ahead` | the rounds |
//! | `attempt` | what spoils a freeze in passing |
//! | `pace` | pages on their way in a round: counted, and held back to a limit |
//! | `control` | what a user can learn of a migration under way, and change |
//! | `freeze` | from the first thread stopped until the other end has everything |
//! | `commit` | the decision, as the machine of the hand-over is told of it |
//! | `executor` | what that says, carried out on process, journal and conversation |
//! | `hand_on` | what the stopped copy is signalled goes to the target, what it holds is freed |
//! | `left` | the stopped copy that `ulpm recover` ends or lets go on |
//! | `hashed` | hashes of the frozen process's memory |
//! | `late` | the process runs there, its memory follows |
//! | `lanes` | the connections on which it does |
//! | `page_server` | what is asked for on them, read from the stopped process |
//! | `whole` | whether a process still misses memory of an earlier move |
//! | `ask` | the question how a migration ended |
//! | `held` | a process whose hand-over is open |
//! | `settle` | migrations whose outcome is open |

mod ahead;
pub(crate) mod ask;
mod attempt;
pub(crate) mod cancel;
mod commit;
pub(crate) mod control;
pub mod destination;
pub(crate) mod direct;
pub(crate) mod error;
mod executor;
pub(crate) mod foresight;
pub(crate) mod freeze;
pub(crate) mod hand_on;
mod hashed;
pub(crate) mod held;
pub(crate) mod lanes;
pub(crate) mod late;
mod left;
pub(crate) mod link;
pub(crate) mod options;
pub(crate) mod pace;
pub(crate) mod page_server;
mod pulse;
pub mod session;
pub(crate) mod settle;
pub(crate) mod whole;

pub use control::Control;
pub use error::MigrateError;
pub use options::{Options, Progress};
pub use session::Migration;
