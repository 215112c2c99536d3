//! The workload's command line, taken apart by hand: it starts before clap and tokio.

use std::ffi::OsString;
use std::path::PathBuf;

use thiserror::Error;

use crate::report::{Size, SizeError};

/// The unit of writing and checking. Where the kernel's pages are larger, several lie in one.
pub(super) const PAGE: usize = 4096;

/// What the workload is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of memory to fill.
    pub mem: u64,
    /// Pages to rewrite per second, over all threads.
    pub dirty_rate: u64,
    /// Threads that own and rewrite the memory (others keep the rest busy).
    pub threads: usize,
    /// Where status, commands and files live.
    pub dir: PathBuf,
}

/// Why the arguments make no sense.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// An option that does not exist.
    #[error("unknown option '{0}'")]
    Unknown(String),
    /// An option without the value it needs.
    #[error("{0} needs a value")]
    NoValue(String),
    /// A value that is no number, or out of range.
    #[error("{option}: '{value}' is no number in range")]
    NotANumber {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
    /// A size that is none.
    #[error("--mem")]
    Size(#[from] SizeError),
    /// No directory.
    #[error("--dir is required")]
    NoDir,
}

impl Options {
    /// The options in `args`, which come after `__workload`.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, OptionsError> {
        let mut options = Self { mem: 256 << 20, dirty_rate: 1000, threads: 4, dir: PathBuf::new() };
        let mut args = args.into_iter();
        while let Some(option) = args.next() {
            let option = option.to_string_lossy().into_owned();
            let value = args.next().ok_or_else(|| OptionsError::NoValue(option.clone()))?;
            let text = value.to_string_lossy().into_owned();
            match option.as_str() {
                "--mem" => options.mem = text.parse::<Size>()?.as_bytes(),
                "--dirty-rate" => options.dirty_rate = number(&option, &text)?,
                "--threads" => options.threads = number::<u16>(&option, &text)?.max(1).into(),
                "--dir" => options.dir = value.into(),
                _ => return Err(OptionsError::Unknown(option)),
            }
        }
        if options.dir.as_os_str().is_empty() { Err(OptionsError::NoDir) } else { Ok(options) }
    }

    /// The arguments that parse to these options, `__workload` not among them.
    pub fn to_args(&self) -> Vec<OsString> {
        vec![
            "--mem".into(),
            self.mem.to_string().into(),
            "--dirty-rate".into(),
            self.dirty_rate.to_string().into(),
            "--threads".into(),
            self.threads.to_string().into(),
            "--dir".into(),
            self.dir.clone().into(),
        ]
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, OptionsError> {
    value.parse().map_err(|_| OptionsError::NotANumber { option: option.into(), value: value.into() })
}

/// How many pages the options ask for: at least one for each thread.
pub(super) fn page_count(options: &Options) -> u64 {
    (options.mem / PAGE as u64).max(options.threads as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionsError> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn arguments_go_there_and_back() {
        let options = parse("--mem 1.5M --dirty-rate 7 --threads 2 --dir /tmp/x").unwrap();
        assert_eq!(options, Options { mem: 3 << 19, dirty_rate: 7, threads: 2, dir: "/tmp/x".into() });
        assert_eq!(Options::parse(options.to_args()).unwrap(), options);
        assert_eq!(parse("--dir d").unwrap().mem, 256 << 20);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse(""), Err(OptionsError::NoDir));
        assert_eq!(parse("--dir"), Err(OptionsError::NoValue("--dir".into())));
        assert_eq!(parse("--what x --dir d"), Err(OptionsError::Unknown("--what".into())));
        assert!(matches!(parse("--threads -1 --dir d"), Err(OptionsError::NotANumber { .. })));
        assert!(matches!(parse("--mem lots --dir d"), Err(OptionsError::Size(_))));
    }
}
