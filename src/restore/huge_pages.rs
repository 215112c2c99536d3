//! Preflight at the target: huge pages (hugetlb). They are set aside by the administrator, and a process that touches
//! one that is not there gets a `SIGBUS`: so all must be there before anything is stopped. Pools change at any time;
//! what is missing later is an error of the mapping or of the placing of pages, and the move is aborted.

use std::fs;
use std::path::Path;

use crate::image::Obstacle;
use crate::image::memory::HugePages;
use crate::sys::hugetlb::{self, Pool};
use crate::sys::kernel::Kernel;

/// What stands in the way of having all these here.
pub fn obstacles(kernel: &Kernel, needed: &[HugePages]) -> Vec<Obstacle> {
    let groups = crate::sys::lossy("/proc/self/cgroup").unwrap_or_default();
    let lack = |need: &HugePages| {
        let name = format!("huge pages of {}", size(need.page_size));
        if !kernel.has_huge_pages_of(need.page_size) {
            return Some(Obstacle::new(
                name,
                "the target's kernel offers none of this size",
                format!("boot the target with hugepagesz={}", size(need.page_size).trim_end_matches('B')),
            ));
        }
        let pool = Pool::read(need.page_size)?;
        too_few(&name, need, &pool).or_else(|| over_limit(&name, need, &groups, Path::new("/sys/fs/cgroup")))
    };
    needed.iter().filter_map(lack).collect()
}

fn too_few(name: &str, need: &HugePages, pool: &Pool) -> Option<Obstacle> {
    let available = pool.available();
    if need.count <= available {
        return None;
    }
    let total = pool.total - pool.surplus.min(pool.total) + need.count - available;
    let advice = if Some(need.page_size) == hugetlb::usual_size() {
        format!("at the target: sysctl vm.nr_hugepages={total}")
    } else {
        let kib = need.page_size / 1024;
        format!("at the target: echo {total} > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages")
    };
    let why = format!("the process needs {}, the target has {available} free", need.count);
    Some(Obstacle::new(name, why, advice))
}

/// What the control groups of `ulpm serve` allow, as far as they are visible.
fn over_limit(name: &str, need: &HugePages, groups: &str, root: &Path) -> Option<Obstacle> {
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let mount = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|c| c == "hugetlb") => root.join("hugetlb"),
            _ => continue,
        };
        for group in mount.join(path).ancestors().take_while(|group| group.starts_with(&mount)) {
            let Some(left) = left_in(group, need.page_size) else { continue };
            if need.count > left {
                let why = format!(
                    "the process needs {}, the control group {} at the target allows {left} more",
                    need.count,
                    group.display()
                );
                return Some(Obstacle::new(name, why, "raise the group's limit (hugetlb controller)"));
            }
        }
    }
    None
}

/// How many more pages a control group allows; `None` if it has no limit.
fn left_in(group: &Path, page_size: u64) -> Option<u64> {
    let number = |name: String| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let size = size(page_size);
    let names = [
        ("max", "current"),
        ("rsvd.max", "rsvd.current"),
        ("limit_in_bytes", "usage_in_bytes"),
        ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes"),
    ];
    let left = names.iter().filter_map(|(limit, used)| {
        // "max" is no number: no limit
        let limit = number(format!("hugetlb.{size}.{limit}"))?;
        Some(limit.saturating_sub(number(format!("hugetlb.{size}.{used}"))?) / page_size)
    });
    left.min()
}

/// As the kernel names sizes: 2MB, 1GB.
fn size(bytes: u64) -> String {
    match bytes.ilog2() {
        30.. => format!("{}GB", bytes >> 30),
        20.. => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: HugePages = HugePages { page_size: 2 << 20, count: 8 };

    #[test]
    fn what_is_needed_and_what_to_do_is_said() {
        let pool = Pool { total: 10, free: 9, reserved: 2, surplus: 1, overcommit: 1 };
        let said = too_few("x", &NEED, &pool).unwrap().to_string();
        assert!(said.contains("needs 8") && said.contains("7 free"), "{said}");
        assert!(
            said.contains("=10") || said.contains("echo 10"),
            "9 are set aside, one more is needed: {said}"
        );
        assert_eq!(too_few("x", &HugePages { count: 7, ..NEED }, &pool), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let write = |dir: &Path, name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        write(&inner, "hugetlb.2MB.max", "max\n");
        write(&inner, "hugetlb.2MB.current", "0\n");
        assert_eq!(over_limit("x", &NEED, "0::/a/b\n", root.path()), None);
        write(&root.path().join("a"), "hugetlb.2MB.max", &format!("{}\n", 9 << 21));
        write(&root.path().join("a"), "hugetlb.2MB.current", &format!("{}\n", 2 << 21));
        let said = over_limit("x", &NEED, "0::/a/b\n", root.path()).unwrap().to_string();
        assert!(said.contains("allows 7 more"), "{said}");
        assert_eq!(over_limit("x", &HugePages { count: 7, ..NEED }, "0::/a/b\n", root.path()), None);
        // version 1
        let old = root.path().join("hugetlb/c");
        fs::create_dir_all(&old).unwrap();
        write(&old, "hugetlb.2MB.limit_in_bytes", "4194304");
        write(&old, "hugetlb.2MB.usage_in_bytes", "0");
        let said = over_limit("x", &NEED, "3:cpu:/\n5:hugetlb,misc:/c\n", root.path()).unwrap().to_string();
        assert!(said.contains("allows 2 more"), "{said}");
    }

    #[test]
    fn a_size_that_no_kernel_has_is_refused() {
        let said = obstacles(Kernel::here(), &[HugePages { page_size: 1 << 40, count: 1 }])[0].to_string();
        assert!(said.contains("offers none of this size"), "{said}");
    }
}
