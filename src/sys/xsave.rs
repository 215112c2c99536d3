//! Which CPU state components (XCR0) and instruction sets exist here: a process that has looked at CPUID may
//! use all of them, so a target must offer at least the source's.
#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;

/// In a virtual machine each CPUID goes to the hypervisor (some 4 µs), and the freeze asks for every thread: so only once.
static AREA: LazyLock<(u64, u32)> = LazyLock::new(|| {
    let leaf = __cpuid_count(0xd, 0);
    (u64::from(leaf.eax) | u64::from(leaf.edx) << 32, leaf.ebx)
});

static LAYOUT: LazyLock<Vec<(u32, u32, u32)>> = LazyLock::new(|| {
    let enabled = (2..63).filter(|i| components() >> i & 1 == 1);
    enabled
        .map(|i| {
            let leaf = __cpuid_count(0xd, i);
            (i, leaf.ebx, leaf.eax)
        })
        .collect()
});

/// The enabled state components (bits of XCR0: 0 x87, 1 SSE, 2 AVX, 5–7 AVX-512, 9 PKRU, 17–18 AMX).
pub fn components() -> u64 {
    AREA.0
}

/// Size in bytes of an XSAVE area with all enabled components.
pub fn area_size() -> u32 {
    AREA.1
}

/// Offset and size of each enabled component's part of the XSAVE area, by component number from 2.
pub fn layout() -> &'static [(u32, u32, u32)] {
    &LAYOUT
}

/// Feature words of CPUID: leaf 1 ecx, edx; leaf 7 ebx, ecx, edx; leaf 0x8000_0001 ecx, edx.
pub fn feature_words() -> [u32; 7] {
    let one = __cpuid(1);
    let seven = __cpuid_count(7, 0);
    let extended = __cpuid(0x8000_0001);
    // OSXSAVE (bit 27 of ecx) says what the kernel enabled and stays; leaf 1 ebx (APIC id) is left out
    [one.ecx, one.edx, seven.ebx, seven.ecx, seven.edx, extended.ecx, extended.edx]
}
