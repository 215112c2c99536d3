//! A good image passes, in both its forms; each lie in it is refused.

use super::*;
use crate::image::files::{DescriptorTable, FdSlot, FileIdentity, FileOwner, OpenFile, Pipe};
use crate::image::inode::Inode;
use crate::image::memory::{MemoryModes, MemoryObject, MmFields};
use crate::image::process::{Credentials, PosixTimer, Wait};
use crate::image::{FIRST, ObjectId, VmaFlags};

const ID: ObjectId = ObjectId { dev: 1, ino: 2 };

fn vma(start: u64, end: u64) -> Vma {
    Vma {
        start,
        end,
        prot: 3,
        shared: false,
        offset: 0,
        backing: Backing::Anonymous,
        flags: VmaFlags::empty(),
        page_size: PAGE_SIZE,
    }
}

fn file(flags: u32, kind: FileKind) -> OpenFile {
    OpenFile { fd: 3, link: "x".into(), ino: 1, flags, owner: None, node: None, kind }
}

fn regular(path: &str) -> FileKind {
    let identity = FileIdentity {
        host: String::new(),
        fs_type: 0,
        dev: 0,
        ino: 0,
        mode: 0o100_644,
        size: 0,
        mtime_ns: 0,
        btime_ns: None,
    };
    FileKind::Regular { path: path.into(), pos: 0, identity }
}

fn good() -> TreeImage {
    let thread = ThreadImage { tid: 7, regs: vec![0; REGISTERS], ..ThreadImage::default() };
    let object = MemoryObject {
        id: ID,
        size: 8192,
        memfd_name: None,
        seals: 0,
        page_size: PAGE_SIZE,
        inode: None,
        shm: false,
    };
    let shared = Vma { shared: true, backing: Backing::SharedAnonymous(ID), ..vma(0x20_0000, 0x20_2000) };
    let memory = MemoryImage {
        guards: Vec::new(),
        layout: Layout {
            vmas: vec![vma(0x10_0000, 0x11_0000), shared],
            objects: vec![object],
            special: Vec::new(),
        },
        vdso: Vdso { areas: vec![("[vdso]".to_owned(), 0x7fff_0000_0000, 0x7fff_0000_2000)], hash: [0; 32] },
        mm: MmFields::default(),
        exe: "/bin/x".into(),
        files: Vec::new(),
        resident: 0,
        needs: 0,
        huge_pages: Vec::new(),
        modes: MemoryModes::default(),
    };
    let files = FilesImage {
        tables: vec![DescriptorTable(vec![FdSlot { fd: 3, file: 0, cloexec: false }])],
        files: vec![file(0, regular("/tmp/x"))],
        pipes: vec![Pipe {
            ino: 1,
            capacity: 4096,
            inode: Inode::default(),
            data: vec![1; 4096],
            packets: vec![],
        }],
        ..FilesImage::default()
    };
    let process = ProcessImage {
        pid: 7,
        memory,
        threads: vec![thread],
        queued: Vec::new(),
        timers: Timers::default(),
        states: crate::image::States::default(),
        table: 0,
        relations: Relations::alone(7),
        ended: None,
    };
    TreeImage::new(vec![process], files)
}

fn refused(change: impl FnOnce(&mut ProcessImage)) -> String {
    let mut image = good();
    change(&mut image.processes[0]);
    tree(&image, true).expect_err("a lie passes")
}

fn refused_open(change: impl FnOnce(&mut FilesImage)) -> String {
    let mut image = good();
    change(&mut image.files);
    tree(&image, true).expect_err("a lie passes")
}

/// What only a larger tree has is not passed over.
#[test]
fn nobody_is_related_to_processes_that_are_not_there() {
    let lies: [fn(&mut ProcessImage); 8] = [
        |p| p.relations.parent = Some(FIRST),
        |p| p.relations.exit_signal = 0,
        |p| p.relations.session = 1,
        |p| p.relations.group = 6,
        |p| p.relations.directories_of = Some(FIRST),
        |p| p.ended = Some(0),
        |p| p.table = 1,
        |p| p.table = usize::MAX,
    ];
    lies.into_iter().for_each(|lie| drop(refused(lie)));
    refused_open(|f| f.tables.clear());
    refused_open(|f| f.tables.push(DescriptorTable::default()));
}

#[test]
fn a_good_image_passes() {
    assert_eq!(tree(&good(), true), Ok(()));
    assert_eq!(tree(&good(), false), Ok(()));
    let mut described = good();
    described.processes[0].threads[0].regs.clear();
    assert_eq!(tree(&described, false), Ok(()));
    assert!(tree(&described, true).is_err());
    assert!(tree(&TreeImage::new(Vec::new(), good().files), true).is_err());
    let two = TreeImage::new([good().processes, good().processes].concat(), good().files);
    assert!(tree(&two, true).is_err());
}

#[test]
fn a_main_thread_may_have_ended_and_has_nothing_then() {
    let leaderless = || {
        let mut image = good();
        let other = ThreadImage { tid: 8, ..image.processes[0].threads[0].clone() };
        let ended = ThreadImage { tid: 7, ended: Some(3), ..ThreadImage::default() };
        image.processes[0].threads = vec![ended, other];
        image
    };
    assert_eq!(tree(&leaderless(), true), Ok(()));
    assert_eq!(tree(&leaderless(), false), Ok(()));
    let lies: [fn(&mut ProcessImage); 8] = [
        |p| p.memory.vdso.areas.clear(),
        // nobody is left
        |p| p.threads.truncate(1),
        // a thread that has ended is no zombie
        |p| p.threads[1] = ThreadImage { tid: 8, ..p.threads[0].clone() },
        |p| p.threads[0].regs = vec![0; REGISTERS],
        |p| p.threads[0].clear_child_tid = 0x10_0000,
        |p| p.threads[0].robust_list = (0x10_0000, 24),
        |p| p.threads[0].rseq.0 = 0x10_0000,
        |p| p.threads[0].queued = vec![vec![0; 128]],
    ];
    for lie in lies {
        let mut image = leaderless();
        lie(&mut image.processes[0]);
        assert!(tree(&image, true).is_err());
    }
}

#[test]
fn addresses_outside_of_user_space_and_over_the_vdso_are_refused() {
    let spans = [
        (0xffff_8000_0000_0000, 0xffff_8000_0001_0000),
        (0x7fff_ffff_f000, USER_END + PAGE_SIZE),
        (0x30_0000, 0x30_0000),
        (0x31_0000, 0x30_0000),
        (0x30_0001, 0x31_0000),
        // before the one that is there
        (0x1000, 0x2000),
        (0x7ffe_ffff_f000, 0x7fff_0000_1000),
        (0, u64::MAX),
    ];
    for (start, end) in spans {
        let said = refused(|p| p.memory.layout.vmas.push(vma(start, end)));
        assert!(said.contains("mapping"), "{start:#x}-{end:#x}: {said}");
    }
    for offset in [1, u64::MAX - 4095, 1 << 63] {
        refused(|p| p.memory.layout.vmas[1].offset = offset);
    }
    refused(|p| p.memory.layout.vmas[0].prot = 8);
    refused(|p| p.memory.layout.vmas[0].shared = true);
    for (start, end) in [(u64::MAX - 4095, u64::MAX), (0x1000, 0x1000), (0x1001, 0x3000), (0, 1 << 63)] {
        refused(|p| p.memory.vdso.areas[0] = ("[vdso]".to_owned(), start, end));
    }
}

#[test]
fn lies_about_sizes_are_refused() {
    for size in [1 << 63, u64::MAX, (1 << 46) + 1] {
        let said = refused(|p| p.memory.layout.objects[0].size = size);
        assert!(said.contains("impossible memory object"), "{said}");
    }
    for page in [0, 1, 4095, 4097, 1 << 40, u64::MAX] {
        refused(|p| p.memory.layout.objects[0].page_size = page);
        refused(|p| p.memory.layout.vmas[0].page_size = page);
    }
    refused(|p| p.memory.layout.objects.clear());
    refused(|p| {
        let twice = p.memory.layout.objects[0].clone();
        p.memory.layout.objects.push(twice);
    });
    refused(|p| p.threads[0].regs.truncate(3));
    refused(|p| p.threads[0].xstate = vec![0; MAX_XSTATE + 1]);
    refused(|p| p.threads.clear());
    refused(|p| p.threads.push(p.threads[0].clone()));
    refused(|p| p.threads[0].tid = 8);
    refused(|p| p.pid = -1);
    refused(|p| p.threads[0].creds = Credentials { groups: vec![0; 70_000], ..Credentials::default() });
    refused(|p| p.threads[0].patch = Some((u64::MAX, vec![0; 16])));
    refused(|p| p.threads[0].patch = Some((0x10_0000, vec![0; 8192])));
    refused(|p| p.threads[0].wait = Some(Wait { nr: libc::SYS_execve, args: [0; 6], left_ns: 0 }));
    refused(|p| p.timers.itimers = vec![[0; 4]; 4]);
    refused(|p| p.timers.itimers = vec![[i64::MAX, 0, 0, 0]]);
    let timer = |id, setting| {
        move |p: &mut ProcessImage| {
            p.timers.posix = vec![PosixTimer {
                id,
                clock: 1,
                notify: 1,
                signal: 0,
                value: 0,
                thread: 0,
                setting,
                expired: 0,
            }];
        }
    };
    refused(timer(i32::MAX, [0; 4]));
    refused(|p| {
        timer(0, [0; 4])(p);
        p.timers.posix[0].expired = -1;
    });
    refused(timer(-1, [0; 4]));
    refused(timer(1, [0, 0, i64::MIN, 0]));
}

#[test]
fn descriptors_that_lead_nowhere_are_refused() {
    for fd in [-1, i32::MAX, MAX_FD] {
        refused_open(|f| f.tables[0].0[0].fd = fd);
    }
    refused_open(|f| f.tables[0].0[0].file = 1);
    refused_open(|f| {
        let again = f.tables[0].0[0].clone();
        f.tables[0].0.push(again);
    });
    for kind in [FileKind::Pipe { pipe: 1 }, FileKind::MemFd { object: 9, pos: 0 }] {
        refused_open(|f| f.files[0].kind = kind);
    }
    refused_open(|f| {
        f.pipes[0].data.push(0);
        f.files[0].kind = FileKind::Pipe { pipe: 0 };
    });
}

#[test]
fn signals_to_others_are_refused() {
    let owner =
        |kind, id, signal| move |f: &mut FilesImage| f.files[0].owner = Some(FileOwner { kind, id, signal });
    assert!(refused_open(owner(OwnerKind::Process, 1, 9)).contains("somebody else"));
    refused_open(owner(OwnerKind::Thread, 8, 0));
    refused_open(owner(OwnerKind::Process, 7, 65));
    let mut own = good();
    owner(OwnerKind::Thread, 7, 34)(&mut own.files);
    assert_eq!(tree(&own, true), Ok(()));
}

#[test]
fn paths_are_absolute_texts() {
    for path in ["", "relative", "../up", "/with\0nul", &format!("/{}", "x".repeat(5000))] {
        assert!(refused_open(|f| f.files[0].kind = regular(path)).contains("path"), "{path:?}");
        refused(|p| p.memory.exe = path.into());
    }
    // a place opens nothing: one that would is no place
    let FileKind::Regular { path, identity, .. } = regular("/x") else { unreachable!() };
    refused_open(|f| f.files[0].kind = FileKind::Place { path, identity });
    for mode in [0o020_666, 0o060_666, 0o010_666, 0o140_666] {
        refused_open(|f| {
            let FileKind::Regular { identity, .. } = &mut f.files[0].kind else { unreachable!() };
            identity.mode = mode;
        });
    }
}

#[test]
fn names_of_migrations_are_names_of_files() {
    assert_eq!(id("6dd5e1d4-6d2c-4ec9-bb5e-2a7f0ae31c1a"), Ok(()));
    for bad in ["", "..", "a/b", "a.b", "a b", "\0", &"x".repeat(65)] {
        assert!(id(bad).is_err(), "{bad:?}");
    }
}
