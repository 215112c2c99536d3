//! The source's session from hello to report: the round loop, when to stop it, the freeze, the commit.
//!
//! | file | owns |
//! |---|---|
//! | [`hello`] | what a side is; whether two sides can talk |
//! | [`link`] | the source's end of the conversation |
//! | [`rounds`] | what was measured of the rounds; bandwidth, dirty rate and what they lead to expect; pure |
//! | [`predict`] | how long a freeze would be now, part by part; pure |
//! | [`learned`] | how predictions are corrected by what came of earlier ones |
//! | [`policy`] | after each round: again, freeze, throttle or give up; pure |
//! | [`simulate`] | the rounds of a migration that does not take place; pure |
//! | [`session`] | the steps in order |
//! | [`freeze`] | from the first thread stopped to the commit |
//! | [`settle`] | migrations whose outcome is open |

pub mod error;
pub mod freeze;
pub mod hello;
pub mod learned;
pub mod link;
pub mod policy;
pub mod predict;
pub mod rounds;
pub mod session;
pub mod settle;
pub mod simulate;

pub use error::MigrateError;
pub use session::{Migration, Options, Progress};
