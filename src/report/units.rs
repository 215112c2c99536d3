//! Sizes and durations as people type and read them.
//!
//! A size is typed as digits, an optional fraction and an optional unit: `4096`, `64k`, `256M`,
//! `1.5G`, `1GiB`. Units are powers of 1024, in either case, and `B`/`iB` may follow them. A rate is a size per
//! second, or bits per second in powers of 1000. A length of time needs its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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

/// Bytes per second, parsed from `100M` (powers of 1024, as sizes are) or `1Gbit` (powers of 1000, as links are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RateError {
    /// Neither bytes nor bits per second.
    #[error("'{0}' is not a rate such as 100M (bytes per second) or 1Gbit (bits per second)")]
    NotARate(String),
    /// Nothing would ever be sent.
    #[error("at a rate of nothing it would never end")]
    Nothing,
}

impl Rate {
    /// So many bytes per second.
    pub const fn bytes_per_s(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes per second.
    pub const fn as_bytes_per_s(self) -> u64 {
        self.0
    }

    /// How long so many bytes take.
    pub fn seconds_for(self, bytes: u64) -> f64 {
        bytes as f64 / self.0.max(1) as f64
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let lower = text.trim().trim_end_matches("/s").to_ascii_lowercase();
        let bytes = match lower.strip_suffix("bit").or_else(|| lower.strip_suffix("bps")) {
            Some(bits) => bits_per_s(bits).map(|bits| bits / 8.0).filter(|b| *b < 1e18).map(|b| b as u64),
            None => lower.parse::<Size>().ok().map(Size::as_bytes),
        };
        match bytes {
            None => Err(RateError::NotARate(text.to_owned())),
            Some(0) => Err(RateError::Nothing),
            Some(bytes) => Ok(Rate(bytes)),
        }
    }
}

/// `1.5g` as 1.5e9.
fn bits_per_s(text: &str) -> Option<f64> {
    let text = text.trim();
    let number = text.trim_end_matches(['k', 'm', 'g', 't']);
    let scale = match &text[number.len()..] {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return None,
    };
    decimal(number.trim()).map(|n| n * scale)
}

/// Digits with an optional fraction: no sign, no exponent, no words.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Size(self.0)))
    }
}

/// A length of time, parsed from `20ms`, `1.5s`, `2min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Span(Duration);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not a time such as 500us, 20ms, 1.5s, 2min or 1h")]
pub struct SpanError(String);

impl Span {
    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let wrong = || SpanError(text.to_owned());
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let scale = match text[end..].trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            // a number alone could mean anything
            _ => return Err(wrong()),
        };
        let seconds = decimal(&text[..end]).ok_or_else(wrong)? * scale;
        Duration::try_from_secs_f64(seconds).map(Span).map_err(|_| wrong())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&human_ms(self.0.as_secs_f64() * 1e3))
    }
}

/// Milliseconds for a person: three significant places, in the unit that fits.
pub fn human_ms(ms: f64) -> String {
    match ms {
        ms if ms >= 7_200_000.0 => format!("{:.1} h", ms / 3_600_000.0),
        ms if ms >= 120_000.0 => format!("{:.1} min", ms / 60_000.0),
        ms if ms >= 99_950.0 => format!("{:.0} s", ms / 1000.0),
        ms if ms >= 9_995.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms >= 999.5 => format!("{:.2} s", ms / 1000.0),
        ms if ms >= 99.95 => format!("{ms:.0} ms"),
        ms if ms >= 9.995 => format!("{ms:.1} ms"),
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
    fn rates_are_bytes_or_bits() {
        let rate = |text: &str| text.parse::<Rate>().map(Rate::as_bytes_per_s);
        assert_eq!(rate("100M"), Ok(100 << 20));
        assert_eq!(rate("100M/s"), Ok(100 << 20));
        assert_eq!(rate("1Gbit"), Ok(125_000_000));
        assert_eq!(rate("1.5 gbit/s"), Ok(187_500_000));
        assert_eq!(rate("800bit"), Ok(100));
        assert_eq!(rate("2Mbps"), Ok(250_000));
        assert_eq!(rate("0"), Err(RateError::Nothing));
        assert_eq!(rate("1bit"), Err(RateError::Nothing));
        for text in ["", "fast", "bit", "-1Mbit", "1e3bit", "infbit", "1.2.3bit", "1xbit", "1gkbit"] {
            assert!(matches!(rate(text), Err(RateError::NotARate(_))), "{text}");
        }
        assert_eq!(Rate::bytes_per_s(3 << 19).to_string(), "1.5 MiB/s");
    }

    #[test]
    fn times_need_their_unit() {
        let span = |text: &str| text.parse::<Span>().map(Span::duration);
        assert_eq!(span("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(span(" 1.5 s "), Ok(Duration::from_millis(1500)));
        assert_eq!(span("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(span("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(span("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for text in ["", "20", "ms", "-1s", "1.s", ".5s", "1e3s", "5 days", "NaNs", "1s 1ms"] {
            assert!(span(text).is_err(), "{text}");
        }
        assert!(span(&format!("{}h", "9".repeat(30))).is_err());
        assert_eq!("1.5s".parse::<Span>().unwrap().to_string(), "1.50 s");
    }

    #[test]
    fn durations_keep_three_figures() {
        assert_eq!(human_ms(0.0), "0.00 ms");
        assert_eq!(human_ms(4.218), "4.22 ms");
        assert_eq!(human_ms(42.18), "42.2 ms");
        assert_eq!(human_ms(812.4), "812 ms");
        assert_eq!(human_ms(999.7), "1.00 s");
        assert_eq!(human_ms(8_903.0), "8.90 s");
        assert_eq!(human_ms(12_345.0), "12.3 s");
        assert_eq!(human_ms(99_999.0), "100 s");
        assert_eq!(human_ms(150_000.0), "2.5 min");
        assert_eq!(human_ms(9_000_000.0), "2.5 h");
    }
}
