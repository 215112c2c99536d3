//! How far a trusted peer may go: the words behind its name in the trust file. Pure.
//!
//! ```text
//! SHA256:… alpha users=redis,1000-1999 map-users=500=redis processes=4 memory=8G paths=/srv:/usr expires=2027-01-31
//! ```
//! A peer without such words may do everything, as it was before there were any.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::user::User;
use super::user_map::UserMap;

/// What a peer may do here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permit {
    /// As whom its processes may run.
    pub users: Users,
    /// Who its users are here, before [`Permit::users`] is asked.
    pub map_users: UserMap,
    /// How many of them at once.
    pub processes: Option<u32>,
    /// Bytes that one process may bring along.
    pub memory: Option<u64>,
    /// Bytes that one process may have mapped, then and later.
    pub address_space: Option<u64>,
    /// Seconds of CPU time that one process may use from its arrival on.
    pub cpu_time: Option<u64>,
    /// Directories in which all its files must lie; empty: anywhere.
    pub paths: Vec<String>,
    /// Whether a pid namespace may be made for a process.
    pub no_namespaces: bool,
    /// Which way.
    pub direction: Direction,
    /// The day (UTC) after which it is trusted no longer, as days since 1970.
    pub expires: Option<Day>,
    /// It is trusted no longer, and cannot be by mistake.
    pub revoked: bool,
}

/// As whom processes may run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Users {
    /// As anybody, root included.
    #[default]
    Any,
    /// As anybody but root.
    Ordinary,
    /// As these: names, or numbers from – to.
    These(Vec<User>),
}

/// Which way processes may go between us and the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// We only receive from it.
    Receive,
    /// We only send to it.
    Send,
}

/// A day, as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub i64);

/// A moment, as seconds since 1970: `2026-11-28 01:02:03 UTC`.
#[derive(Debug, Clone, Copy)]
pub struct Moment(pub i64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{} {hour:02}:{minute:02}:{second:02} UTC", Day(day))
    }
}

/// Words that mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?}: {why}")]
pub struct PermitError {
    word: String,
    why: &'static str,
}

/// Why a trusted peer is not let in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// See [`Permit::revoked`].
    #[error("its trust was revoked")]
    Revoked,
    /// See [`Permit::expires`].
    #[error("its trust expired on {0}")]
    Expired(Day),
    /// See [`Permit::direction`].
    #[error("it is trusted to receive only, not to send")]
    ReceivesOnly,
    /// See [`Permit::direction`].
    #[error("it is trusted to send only, not to receive")]
    SendsOnly,
}

impl Permit {
    /// What `ulpm trust add` gives if nothing else is said.
    pub fn ordinary() -> Self {
        Self { users: Users::Ordinary, ..Self::default() }
    }

    /// Takes in one word of the line; false if it is none of ours.
    pub fn take(&mut self, word: &str) -> Result<bool, PermitError> {
        let fail = |why| PermitError { word: word.to_owned(), why };
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "users" => self.users = value.parse().map_err(fail)?,
            "map-users" => self.map_users = value.parse().map_err(fail)?,
            "processes" => self.processes = Some(value.parse().map_err(|_| fail("not a number"))?),
            "memory" => self.memory = Some(bytes(value).ok_or_else(|| fail("not a size, such as 8G"))?),
            "address-space" => {
                self.address_space = Some(bytes(value).ok_or_else(|| fail("not a size, such as 8G"))?)
            }
            "cpu-time" => self.cpu_time = Some(seconds(value).ok_or_else(|| fail("not a time, such as 2h"))?),
            "paths" => self.paths = paths(value).map_err(fail)?,
            "namespaces" if value == "no" => self.no_namespaces = true,
            "direction" if value == "receive" => self.direction = Direction::Receive,
            "direction" if value == "send" => self.direction = Direction::Send,
            "namespaces" | "direction" => return Err(fail("unknown value")),
            "expires" => self.expires = Some(value.parse().map_err(fail)?),
            "revoked" if word == "revoked" => self.revoked = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a process may go that way today.
    pub fn admits(&self, receiving: bool, today: Day) -> Result<(), NotNow> {
        match self.direction {
            _ if self.revoked => Err(NotNow::Revoked),
            Direction::Send if receiving => Err(NotNow::ReceivesOnly),
            Direction::Receive if !receiving => Err(NotNow::SendsOnly),
            _ => self.expires.filter(|last| today > *last).map_or(Ok(()), |last| Err(NotNow::Expired(last))),
        }
    }

    /// Whether its processes run with rights that the peer itself chose: then nothing here is worth a look.
    pub fn is_root(&self) -> bool {
        self.users == Users::Any
    }
}

impl fmt::Display for Permit {
    /// Each word with a space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.users {
            Users::Any => {}
            Users::Ordinary => write!(f, " users=ordinary")?,
            Users::These(users) => {
                let all: Vec<String> = users.iter().map(ToString::to_string).collect();
                write!(f, " users={}", all.join(","))?;
            }
        }
        if !self.map_users.is_empty() {
            write!(f, " map-users={}", self.map_users)?;
        }
        let numbers = [
            ("processes", self.processes.map(u64::from)),
            ("memory", self.memory),
            ("address-space", self.address_space),
            ("cpu-time", self.cpu_time),
        ];
        for (key, value) in numbers {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        if !self.paths.is_empty() {
            write!(f, " paths={}", self.paths.join(":"))?;
        }
        if self.no_namespaces {
            write!(f, " namespaces=no")?;
        }
        match self.direction {
            Direction::Both => {}
            Direction::Receive => write!(f, " direction=receive")?,
            Direction::Send => write!(f, " direction=send")?,
        }
        if let Some(day) = self.expires {
            write!(f, " expires={day}")?;
        }
        if self.revoked { write!(f, " revoked") } else { Ok(()) }
    }
}

impl FromStr for Users {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => return Ok(Self::Any),
            "ordinary" => return Ok(Self::Ordinary),
            "" => return Err("name users, or say any or ordinary"),
            _ => {}
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self::These)
    }
}

/// `8G`, `512M`, or plain bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        None => (text, 0),
        Some(digits) => match text.as_bytes()[text.len() - 1] {
            b'K' => (digits, 10),
            b'M' => (digits, 20),
            b'G' => (digits, 30),
            _ => (digits, 40),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `90s`, `10m`, `2h`, `1d`, or plain seconds; at least one.
fn seconds(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        None => (text, 1),
        Some(digits) => match text.as_bytes()[text.len() - 1] {
            b's' => (digits, 1),
            b'm' => (digits, 60),
            b'h' => (digits, 3600),
            _ => (digits, 86_400),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|seconds| *seconds > 0)
}

fn paths(text: &str) -> Result<Vec<String>, &'static str> {
    let good = |path: &str| {
        path.starts_with('/')
            && !path.contains(|c: char| c.is_whitespace() || c.is_control())
            && !path.split('/').any(|part| part == "..")
    };
    let all: Vec<String> = text.split(':').map(str::to_owned).collect();
    if all.iter().all(|path| good(path)) {
        Ok(all)
    } else {
        Err("absolute directories, with ':' between them")
    }
}

impl Day {
    /// Today, UTC.
    pub fn today() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self((since.as_secs() / 86_400) as i64)
    }
}

impl FromStr for Day {
    type Err = &'static str;

    /// `2027-01-31`; Gregorian, counted from March so that leap days come last.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "not a day, such as 2027-01-31";
        let mut parts = text.splitn(3, '-').map(|part| {
            let digits = part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse::<i64>().map_err(|_| bad) } else { Err(bad) }
        });
        let mut next = || parts.next().unwrap_or(Err(bad));
        let (year, month, day) = (next()?, next()?, next()?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(bad);
        }
        let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
        let found = Self(days);
        // the 31st of a shorter month comes out as another day
        if found.to_string() == format!("{year:04}-{month:02}-{day:02}") { Ok(found) } else { Err(bad) }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let z = self.0 + 719_468;
        let era = z.div_euclid(146_097);
        let of_era = z.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let m = (5 * of_year + 2) / 153;
        let (day, month) = (of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(text: &str) -> Result<Permit, PermitError> {
        let mut permit = Permit::default();
        for word in text.split_whitespace() {
            assert!(permit.take(word)?, "{word}");
        }
        Ok(permit)
    }

    #[test]
    fn words_go_round() {
        let all = " users=redis,1000-1999,7 map-users=500=redis,9-11=12 processes=4 memory=8589934592 address-space=100 \
                   cpu-time=7200 paths=/srv:/usr \
                   namespaces=no direction=receive expires=2027-01-31 revoked";
        assert_eq!(permit(all).unwrap().to_string(), all);
        assert_eq!(permit("memory=8G users=any").unwrap().to_string(), " memory=8589934592");
        assert_eq!(permit("cpu-time=2h").unwrap(), permit("cpu-time=120m").unwrap());
        assert_eq!(Permit::ordinary().to_string(), " users=ordinary");
        assert_eq!(Permit::default().take("alpha"), Ok(false));
        assert_eq!(Permit::default().take("alpha=beta"), Ok(false));
    }

    #[test]
    fn nonsense_is_refused() {
        for word in [
            "users=",
            "users=a,,b",
            "users=9-1",
            "users=1x",
            "users=-1",
            "processes=-1",
            "memory=8X",
            "memory=99999999999T",
            "cpu-time=0",
            "cpu-time=",
            "cpu-time=2w",
            "cpu-time=99999999999999999d",
            "map-users=",
            "map-users=ci=ci",
            "map-users=1=a,1=b",
            "paths=srv",
            "paths=/srv:/a/../b",
            "namespaces=yes",
            "direction=up",
            "expires=2027-02-30",
            "expires=2027-13-01",
            "expires=+2027-1-1",
            "expires=soon",
        ] {
            assert!(permit(word).is_err(), "{word}");
        }
    }

    #[test]
    fn days() {
        for (text, days) in
            [("1970-01-01", 0), ("2000-02-29", 11_016), ("2026-11-22", 20_779), ("9999-12-31", 2_932_896)]
        {
            assert_eq!(text.parse::<Day>(), Ok(Day(days)), "{text}");
            assert_eq!(Day(days).to_string(), text);
        }
    }

    #[test]
    fn who_is_let_in_when_and_which_way() {
        let today = Day(20_000);
        let both = Permit::default();
        assert_eq!((both.admits(true, today), both.admits(false, today)), (Ok(()), Ok(())));
        let out = permit("direction=send").unwrap();
        assert_eq!((out.admits(true, today), out.admits(false, today)), (Err(NotNow::ReceivesOnly), Ok(())));
        let inward = permit("direction=receive").unwrap();
        assert_eq!(
            (inward.admits(true, today), inward.admits(false, today)),
            (Ok(()), Err(NotNow::SendsOnly))
        );
        let until = Permit { expires: Some(today), ..Permit::default() };
        assert_eq!(
            (until.admits(true, today), until.admits(true, Day(20_001))),
            (Ok(()), Err(NotNow::Expired(today)))
        );
        assert_eq!(permit("revoked").unwrap().admits(true, today), Err(NotNow::Revoked));
    }
}
