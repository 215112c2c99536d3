//! What makes a file of the source and a file of the target the same file. Pure comparison; `state::files` asks the
//! kernel.

use serde::{Deserialize, Serialize};

/// What makes a file *this* file; also used for mapped files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The boot id of the kernel that said so; `dev` means something only there.
    pub host: String,
    /// `f_type` of the file system.
    pub fs_type: i64,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Creation, where the file system records it.
    pub btime_ns: Option<i64>,
}

impl FileIdentity {
    /// The very same file: one kernel and one inode, or one inode of a file system both hosts share.
    ///
    /// Equal inode numbers on two local disks are not enough: cloned disk images have them too.
    pub fn same_file(&self, target: &Self) -> bool {
        if self.ino != target.ino || self.mode & S_IFMT != target.mode & S_IFMT {
            return false;
        }
        let born_together = match (self.btime_ns, target.btime_ns) {
            (Some(here), Some(there)) => here == there,
            _ => self.same_stamp(target),
        };
        if self.host == target.host {
            return self.dev == target.dev && self.btime_ns == target.btime_ns;
        }
        born_together && (is_shared_fs(self.fs_type) || is_shared_fs(target.fs_type))
    }

    /// Same content without reading it: the same file, or a clone of it that neither side changed.
    pub fn same_content(&self, target: &Self) -> bool {
        self.same_file(target)
            || (self.ino == target.ino
                && self.btime_ns.is_some()
                && self.btime_ns == target.btime_ns
                && self.same_stamp(target))
    }

    /// Size and time of the last change agree.
    pub fn same_stamp(&self, other: &Self) -> bool {
        self.size == other.size && self.mtime_ns == other.mtime_ns
    }

    /// Content that a kernel makes up when it is read (`/proc`, `/sys`, cgroups): nothing to compare.
    pub fn is_made_up(&self) -> bool {
        is_pseudo_fs(self.fs_type)
    }
}

const S_IFMT: u32 = 0o170_000;

/// File systems that several hosts can have mounted at once (`f_type`, see `statfs(2)`).
pub fn is_shared_fs(fs_type: i64) -> bool {
    const SHARED: [i64; 14] = [
        0x6969,          // NFS
        0xFF53_4D42,     // CIFS
        0xFE53_4D42,     // SMB2
        0x517B,          // SMB
        0x0102_1997,     // 9p
        0x6573_5546,     // FUSE, virtiofs
        0x00C3_6400,     // Ceph
        0x5346_414F,     // AFS
        0x6B41_4653,     // kAFS
        0x7375_7245,     // Coda
        0x0BD0_0BD0,     // Lustre
        0x0116_1970,     // GFS2
        0x7461_636F,     // OCFS2
        0x4750_4653_i64, // GPFS
    ];
    SHARED.contains(&(fs_type & 0xFFFF_FFFF))
}

/// File systems whose files are made up by the kernel.
pub fn is_pseudo_fs(fs_type: i64) -> bool {
    const PSEUDO: [i64; 8] = [
        0x9FA0,      // proc
        0x6265_6572, // sysfs
        0x0027_E0EB, // cgroup
        0x6367_7270, // cgroup2
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xCAFE_4A11, // bpf
    ];
    PSEUDO.contains(&(fs_type & 0xFFFF_FFFF))
}
