//! Whom the users of a peer are on this host: `--map-user FROM=TO`. Pure; names are looked up where they are used.
//!
//! FROM is a number, or several: what travels with a process is numbers, and names of the other host mean nothing here. TO
//! is one user of this host.

use std::fmt;
use std::str::FromStr;

use super::user::User;

/// All that are somebody else here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserMap(Vec<Mapped>);

/// Users of the peer, and who they are here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapped {
    from: (u32, u32),
    to: User,
}

impl UserMap {
    /// Whether everybody is here who he is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who this user of the peer is here; `None`: who he is there.
    pub fn of(&self, uid: u32) -> Option<&User> {
        self.0.iter().find(|one| (one.from.0..=one.from.1).contains(&uid)).map(|one| &one.to)
    }
}

impl FromStr for UserMap {
    type Err = &'static str;

    /// `1000=ci,2000-2999=guest`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = text.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
        let twice = |(i, one): (usize, &Mapped)| {
            all[..i].iter().any(|other| one.from.0 <= other.from.1 && other.from.0 <= one.from.1)
        };
        if all.iter().enumerate().any(twice) {
            return Err("a user cannot be two here: the numbers before '=' overlap");
        }
        Ok(Self(all))
    }
}

fn one(word: &str) -> Result<Mapped, &'static str> {
    let (from, to) = word.split_once('=').ok_or("not FROM=TO, such as 1000=ci")?;
    let User::Ids(first, last) = from.parse::<User>()? else {
        return Err("FROM is a number: names of the other host are not known here (there: id -u NAME)");
    };
    match to.parse::<User>()? {
        User::Ids(first, last) if first != last => Err("TO is one user of this host"),
        to => Ok(Mapped { from: (first, last), to }),
    }
}

impl fmt::Display for UserMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", User::Ids(one.from.0, one.from.1), one.to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        let map: UserMap = "1000=ci,2000-2999=65534,0=nobody".parse().unwrap();
        assert_eq!(map.to_string(), "1000=ci,2000-2999=65534,0=nobody");
        assert_eq!(map.of(1000), Some(&User::Name("ci".to_owned())));
        assert_eq!((map.of(2000), map.of(2999)), (map.of(2500), Some(&User::Ids(65534, 65534))));
        assert_eq!((map.of(1001), map.of(3000)), (None, None));
        assert!(UserMap::default().is_empty() && !map.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "1000", "1000=", "=ci", "ci=ci", "1000=1-2", "9-1=ci", "1000=ci,", "1=a=b", "-1=ci"] {
            assert!(bad.parse::<UserMap>().is_err(), "{bad}");
        }
        for twice in ["1000=a,1000=b", "1-9=a,5=b", "5=b,1-9=a"] {
            assert!(twice.parse::<UserMap>().unwrap_err().contains("overlap"), "{twice}");
        }
    }
}
