//! Huge pages for a trial: set aside when it begins, given back when it ends, however it ends.
//!
//! All hosts of a lab share the one pool of this machine with whatever else runs here, so the pool is only ever
//! changed *by* a number. A keeper process holds the pages: it ends with us, even if we are killed, and gives back what
//! it added. Trials may run side by side unless one needs the pool to be short ([`HugePages::alone`]).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const POOL: &str = "/proc/sys/vm/nr_hugepages";
/// Bytes of the pages that the pool holds.
pub(crate) const SIZE: u64 = 2 << 20;

/// `$1`: flag of `flock` for having the pool; `$2`: pages. Locks are on files that are always there: nothing is left.
const KEEPER: &str = r#"
exec 8</proc/sys/vm/nr_hugepages 9</proc/sys/vm/nr_overcommit_hugepages
flock "$1" 9
change() {
    flock 8
    before=$(cat /proc/sys/vm/nr_hugepages)
    echo $((before + $1)) > /proc/sys/vm/nr_hugepages
    after=$(cat /proc/sys/vm/nr_hugepages)
    flock -u 8
}
change "$2"
echo $((after - before))
cat > /dev/null
change $((before - after))
"#;

/// Pages that were added to the pool; dropping it takes them out again.
#[derive(Debug)]
pub(crate) struct HugePages {
    keeper: Child,
}

impl HugePages {
    /// Adds pages, beside others who do.
    pub(crate) fn add(pages: u64) -> Result<Self> {
        Self::hold("-s", pages)
    }

    /// Adds pages when no other trial has any, and keeps others from having some.
    pub(crate) fn alone(pages: u64) -> Result<Self> {
        Self::hold("-x", pages)
    }

    /// Adds more for one who has it alone.
    pub(crate) fn add_to_alone(pages: u64) -> Result<Self> {
        Self::hold("-u", pages)
    }

    fn hold(flag: &str, pages: u64) -> Result<Self> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh", flag, &pages.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // not in reach of Ctrl-C
            .process_group(0)
            .spawn()
            .context("start sh")?;
        let mut said = String::new();
        BufReader::new(keeper.stdout.take().context("no output")?).read_line(&mut said)?;
        let held = Self { keeper };
        let got: u64 = said.trim().parse().with_context(|| format!("the keeper said {said:?}"))?;
        ensure!(got == pages, "the kernel could set aside {got} of {pages} huge pages");
        Ok(held)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if !self.keeper.wait().is_ok_and(|status| status.success()) {
            eprintln!("the huge pages of a trial were not given back: see {POOL}");
        }
    }
}

/// How many pages of the pool a newcomer could have now.
pub(crate) fn available() -> Result<u64> {
    let pool = ulpm::sys::hugetlb::Pool::read(SIZE).context("no pool of huge pages")?;
    Ok(pool.available())
}

/// Why the pool cannot be changed here; `None` if it can.
pub(crate) fn missing() -> Option<String> {
    if ulpm::sys::hugetlb::usual_size() != Some(SIZE) {
        return Some("this kernel's usual huge pages are not of 2 MiB".to_owned());
    }
    let pages = fs::read_to_string(POOL).unwrap_or_default();
    let writable = File::options().write(true).open(POOL).is_ok();
    if pages.is_empty() || !writable {
        return Some(format!("{} cannot be written", Path::new(POOL).display()));
    }
    super::needs::find_program("flock").is_none().then(|| "flock is not installed".to_owned())
}
