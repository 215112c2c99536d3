//! Users of a host as a permit names them: by name or by number. Pure.

use std::fmt;
use std::str::FromStr;

/// One or several users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By name, looked up when it is needed.
    Name(String),
    /// Numbers, both included.
    Ids(u32, u32),
}

impl FromStr for User {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let ids = word.split_once('-').unwrap_or((word, word));
        match (ids.0.parse::<u32>(), ids.1.parse::<u32>()) {
            (Ok(from), Ok(to)) if from <= to => Ok(Self::Ids(from, to)),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                Err("not a user or a range of numbers")
            }
            _ if word.is_empty() || !word.chars().all(|c| c.is_alphanumeric() || "._-@$".contains(c)) => {
                Err("not a user's name")
            }
            _ => Ok(Self::Name(word.to_owned())),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ids(from, to) if from == to => write!(f, "{from}"),
            Self::Ids(from, to) => write!(f, "{from}-{to}"),
        }
    }
}
