//! Sizes and durations as people type and read them.
//!
//! A size is typed as digits, an optional fraction and an optional unit: `4096`, `64k`, `256M`,
//! `1.5G`, `1GiB`. Units are powers of 1024, in either case, and `B`/`iB` may follow them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A number of bytes, parsed from and shown as `256M`-like text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Size(u64);

impl Size {
    /// A size of so many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of so many mebibytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SizeError {
    /// Nothing before the unit, or not a decimal number.
    #[error("'{0}' is not a size such as 4096, 64k, 256M or 1.5G")]
    NotANumber(String),
    /// The letters after the number are no unit.
    #[error("unknown unit '{unit}' in '{text}' (use k, M, G or T)")]
    UnknownUnit {
        /// What was typed.
        text: String,
        /// The part that was not understood.
        unit: String,
    },
    /// More than 2^64 bytes.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let shift = unit_shift(unit.trim())
            .ok_or_else(|| SizeError::UnknownUnit { text: text.into(), unit: unit.trim().into() })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let not_a_number = || SizeError::NotANumber(text.into());
        if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
            return Err(not_a_number());
        }
        let too_large = || SizeError::TooLarge(text.into());
        let bytes = whole.parse::<u64>().map_err(|_| too_large())?;
        let bytes = bytes.checked_mul(1 << shift).ok_or_else(too_large)?;
        let rest = fraction_of(fraction, shift).ok_or_else(not_a_number)?;
        bytes.checked_add(rest).map(Size).ok_or_else(too_large)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // 1023.95 would be shown as "1024.0".
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(value.fract() != 0.0);
        f.pad(&format!("{value:.decimals$} {}", UNITS[unit]))
    }
}

/// Milliseconds for a person: three significant places where it is short, seconds where it is long.
pub fn human_ms(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

fn unit_shift(unit: &str) -> Option<u32> {
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => None,
    }
}

/// `.digits` of a unit of `1 << shift` bytes, in whole bytes (rounded down).
fn fraction_of(digits: &str, shift: u32) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > 18 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    let value = digits.parse::<u128>().ok()?;
    u64::try_from((value << shift) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> u64 {
        text.parse::<Size>().unwrap().as_bytes()
    }

    #[test]
    fn reads_what_people_type() {
        assert_eq!(parsed("0"), 0);
        assert_eq!(parsed("4096"), 4096);
        assert_eq!(parsed("4096B"), 4096);
        assert_eq!(parsed("64k"), 64 << 10);
        assert_eq!(parsed("256M"), 256 << 20);
        assert_eq!(parsed("256 MiB"), 256 << 20);
        assert_eq!(parsed(" 1g "), 1 << 30);
        assert_eq!(parsed("1.5G"), 3 << 29);
        assert_eq!(parsed("0.5k"), 512);
        assert_eq!(parsed("2TB"), 2 << 40);
        assert_eq!(parsed("16777215T"), 16_777_215 << 40);
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "M", "-1", ".5M", "1.M", "1..5M", "1.2.3", "+4"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(
                matches!(error, SizeError::NotANumber(_) | SizeError::UnknownUnit { .. }),
                "{text}: {error}"
            );
        }
        assert!(matches!("5 bananas".parse::<Size>(), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!("16777216T".parse::<Size>(), Err(SizeError::TooLarge(_))));
        assert!(matches!("99999999999999999999".parse::<Size>(), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn shows_the_nearest_unit() {
        assert_eq!(Size::bytes(0).to_string(), "0 B");
        assert_eq!(Size::bytes(1023).to_string(), "1023 B");
        assert_eq!(Size::bytes(1024).to_string(), "1 KiB");
        assert_eq!(Size::bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Size::mib(256).to_string(), "256 MiB");
        assert_eq!(Size::bytes((1 << 20) - 1).to_string(), "1.0 MiB");
        assert_eq!(Size::bytes(1 << 40).to_string(), "1 TiB");
        assert_eq!(format!("[{:>8}]", Size::mib(4)), "[   4 MiB]");
    }

    #[test]
    fn durations_keep_three_figures() {
        assert_eq!(human_ms(0.0), "0.00 ms");
        assert_eq!(human_ms(4.218), "4.22 ms");
        assert_eq!(human_ms(42.18), "42.2 ms");
        assert_eq!(human_ms(812.4), "812 ms");
        assert_eq!(human_ms(12_345.0), "12.3 s");
    }
}
