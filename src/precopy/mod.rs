//! The source's session from hello to report: the round loop, when to stop it, the freeze, the commit.
//!
//! | file | owns |
//! |---|---|
//! | [`hello`] | what a side is; whether two sides can talk |
//! | [`link`] | the source's end of the conversation |
//! | [`policy`] | after each round: again, or freeze; pure |
//! | [`session`] | the steps in order |
//! | [`freeze`] | from the first thread stopped to the commit |
//! | [`settle`] | migrations whose outcome is open |

pub mod error;
pub mod freeze;
pub mod hello;
pub mod link;
pub mod policy;
pub mod session;
pub mod settle;

pub use error::MigrateError;
pub use session::{Migration, Options, Progress};
