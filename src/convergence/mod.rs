//! When a migration is ready for its freeze, and what that freeze will take. Knows no clock, no kernel and no peer: what was
//! measured comes in, decisions and predictions go out. The session asks it after each round, `ulpm profile` about
//! migrations that do not take place.
//!
//! | file | owns |
//! |---|---|
//! | [`rounds`] | measurements of the rounds; bandwidth, dirty rate and what they lead to expect |
//! | [`predict`] | length of a freeze that began now, part by part |
//! | [`learned`] | correction of predictions by what came of earlier ones; the file that keeps it is all that is read here |
//! | [`policy`] | decision after each round: again, freeze, throttle or give up |
//! | [`simulate`] | rounds of a migration that does not take place |

pub mod learned;
pub mod policy;
pub mod predict;
pub mod rounds;
pub mod simulate;
