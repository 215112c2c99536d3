//! Numbers and structures of `linux/userfaultfd.h`, under the names that the crate `userfaultfd` expects of its `-sys` crate.
//!
//! Stands in for the one on crates.io (`[patch.crates-io]`), whose build script runs bindgen and so needs libclang. Sizes,
//! offsets and request codes are asserted below, at compile time, against the kernel's ABI on 64-bit machines.
#![no_std]
#![allow(non_camel_case_types, non_upper_case_globals, missing_docs)]

use core::mem::offset_of;

/// Protocol number of `UFFDIO_API`.
pub const UFFD_API: u64 = 0xaa;
/// Type byte of the requests on a userfaultfd.
pub const UFFDIO: u8 = 0xaa;
/// Type byte of the request on `/dev/userfaultfd`.
pub const USERFAULTFD_IOC: u8 = 0xaa;
/// Flag of userfaultfd(2): only faults from user mode are handled.
pub const UFFD_USER_MODE_ONLY: u32 = 1;

pub const _UFFDIO_REGISTER: u8 = 0x00;
pub const _UFFDIO_UNREGISTER: u8 = 0x01;
pub const _UFFDIO_WAKE: u8 = 0x02;
pub const _UFFDIO_COPY: u8 = 0x03;
pub const _UFFDIO_ZEROPAGE: u8 = 0x04;
pub const _UFFDIO_WRITEPROTECT: u8 = 0x06;
pub const _UFFDIO_CONTINUE: u8 = 0x07;
pub const _UFFDIO_API: u8 = 0x3f;

pub const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
pub const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
pub const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;
pub const UFFDIO_COPY_MODE_DONTWAKE: u64 = 1 << 0;
pub const UFFDIO_COPY_MODE_WP: u64 = 1 << 1;
pub const UFFDIO_ZEROPAGE_MODE_DONTWAKE: u64 = 1 << 0;
pub const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
pub const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;

pub const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
pub const UFFD_EVENT_FORK: u8 = 0x13;
pub const UFFD_EVENT_REMAP: u8 = 0x14;
pub const UFFD_EVENT_REMOVE: u8 = 0x15;
pub const UFFD_EVENT_UNMAP: u8 = 0x16;

pub const UFFD_PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
pub const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;
pub const UFFD_PAGEFAULT_FLAG_MINOR: u64 = 1 << 2;

pub const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
pub const UFFD_FEATURE_EVENT_FORK: u64 = 1 << 1;
pub const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
pub const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
pub const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
pub const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
pub const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
pub const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
pub const UFFD_FEATURE_THREAD_ID: u64 = 1 << 8;

/// Argument of `UFFDIO_API`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_api {
    pub api: u64,
    pub features: u64,
    pub ioctls: u64,
}

/// Argument of `UFFDIO_UNREGISTER` and `UFFDIO_WAKE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_range {
    pub start: u64,
    pub len: u64,
}

/// Argument of `UFFDIO_REGISTER`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_register {
    pub range: uffdio_range,
    pub mode: u64,
    pub ioctls: u64,
}

/// Argument of `UFFDIO_COPY`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_copy {
    pub dst: u64,
    pub src: u64,
    pub len: u64,
    pub mode: u64,
    pub copy: i64,
}

/// Argument of `UFFDIO_ZEROPAGE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_zeropage {
    pub range: uffdio_range,
    pub mode: u64,
    pub zeropage: i64,
}

/// Argument of `UFFDIO_WRITEPROTECT`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_writeprotect {
    pub range: uffdio_range,
    pub mode: u64,
}

/// Argument of `UFFDIO_CONTINUE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct uffdio_continue {
    pub range: uffdio_range,
    pub mode: u64,
    pub mapped: i64,
}

/// What read(2) gives on a userfaultfd.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct uffd_msg {
    pub event: u8,
    pub reserved1: u8,
    pub reserved2: u16,
    pub reserved3: u32,
    pub arg: uffd_msg_arg,
}

/// The part of [`uffd_msg`] that its `event` decides.
#[repr(C)]
#[derive(Clone, Copy)]
pub union uffd_msg_arg {
    pub pagefault: uffd_msg_pagefault,
    pub fork: uffd_msg_fork,
    pub remap: uffd_msg_remap,
    pub remove: uffd_msg_remove,
    pub reserved: [u64; 3],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_pagefault {
    pub flags: u64,
    pub address: u64,
    pub feat: uffd_msg_feat,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union uffd_msg_feat {
    pub ptid: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_fork {
    pub ufd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_remap {
    pub from: u64,
    pub to: u64,
    pub len: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct uffd_msg_remove {
    pub start: u64,
    pub end: u64,
}

/// `_IOC(direction, 0xaa, number, size)` of `asm-generic/ioctl.h`; direction: 2 reads, 3 reads and writes.
const fn request(direction: u32, number: u8, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | (UFFDIO as u32) << 8 | number as u32
}

pub const UFFDIO_API: u32 = request(3, _UFFDIO_API, size_of::<uffdio_api>());
pub const UFFDIO_REGISTER: u32 = request(3, _UFFDIO_REGISTER, size_of::<uffdio_register>());
pub const UFFDIO_UNREGISTER: u32 = request(2, _UFFDIO_UNREGISTER, size_of::<uffdio_range>());
pub const UFFDIO_WAKE: u32 = request(2, _UFFDIO_WAKE, size_of::<uffdio_range>());
pub const UFFDIO_COPY: u32 = request(3, _UFFDIO_COPY, size_of::<uffdio_copy>());
pub const UFFDIO_ZEROPAGE: u32 = request(3, _UFFDIO_ZEROPAGE, size_of::<uffdio_zeropage>());
pub const UFFDIO_WRITEPROTECT: u32 = request(3, _UFFDIO_WRITEPROTECT, size_of::<uffdio_writeprotect>());
pub const UFFDIO_CONTINUE: u32 = request(3, _UFFDIO_CONTINUE, size_of::<uffdio_continue>());

const _: () = {
    assert!(UFFDIO_API == 0xc018_aa3f && UFFDIO_REGISTER == 0xc020_aa00 && UFFDIO_UNREGISTER == 0x8010_aa01);
    assert!(UFFDIO_WAKE == 0x8010_aa02 && UFFDIO_COPY == 0xc028_aa03 && UFFDIO_ZEROPAGE == 0xc020_aa04);
    assert!(UFFDIO_WRITEPROTECT == 0xc018_aa06 && UFFDIO_CONTINUE == 0xc020_aa07);
    assert!(offset_of!(uffdio_api, features) == 8 && offset_of!(uffdio_api, ioctls) == 16);
    assert!(offset_of!(uffdio_register, mode) == 16 && offset_of!(uffdio_register, ioctls) == 24);
    assert!(offset_of!(uffdio_copy, src) == 8 && offset_of!(uffdio_copy, len) == 16);
    assert!(offset_of!(uffdio_copy, mode) == 24 && offset_of!(uffdio_copy, copy) == 32);
    assert!(offset_of!(uffdio_zeropage, mode) == 16 && offset_of!(uffdio_zeropage, zeropage) == 24);
    assert!(offset_of!(uffdio_writeprotect, mode) == 16 && offset_of!(uffdio_continue, mapped) == 24);
    assert!(size_of::<uffd_msg>() == 32 && offset_of!(uffd_msg, arg) == 8);
    assert!(offset_of!(uffd_msg_pagefault, address) == 8 && offset_of!(uffd_msg_pagefault, feat) == 16);
    assert!(offset_of!(uffd_msg_remap, to) == 8 && offset_of!(uffd_msg_remap, len) == 16);
    assert!(offset_of!(uffd_msg_remove, end) == 8);
};
