//! Signal frames as the kernel builds them and `rt_sigreturn` takes them up: all registers of a thread, its mask and its
//! extended state, as bytes in its own memory. Pure.
//!
//! ```text
//! struct rt_sigframe                              extended state, 64-byte aligned
//! |   0 pretcode      |  where a `ret` goes       | 512 legacy area; its bytes 464..512 say
//! |   8 uc_flags, link|                           |     how long it is: magic1, size + 4, features, size
//! |  24 uc_stack      |  alternate stack          | 64 header: features in use
//! |  48 mcontext      |  r8 … rip, flags, fpstate | the others, to the last in use
//! | 304 uc_sigmask    |                           | magic2
//! | 312 siginfo       |
//! ```
//! `rt_sigreturn` finds the frame 8 bytes below the stack pointer: where it lies after the `ret` that took `pretcode`.
//!
//! It sets the alternate stack, too, and forgives a wrong one (`restore_altstack` squashes all but `EFAULT`): flags that
//! mean nothing leave the thread's own, which only the thread knows, as it is. It does not restart calls: no result of a frame
//! may be one of the kernel's `-ERESTART…`.

use crate::sys::ptrace::Regs;
use crate::sys::xsave;

/// Bytes of a frame; a multiple of 64, so that what follows an aligned one is aligned.
pub(super) const FRAME: usize = 448;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// Neither `SS_DISABLE` nor `SS_ONSTACK` nor 0.
const NO_STACK: u64 = 0x10;

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where the legacy area says how long the whole is.
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
/// Legacy area and header: the kernel takes nothing shorter.
const SHORTEST: usize = HEADER + 64;
const PKRU: u32 = 9;

/// A frame that makes a thread go on with these registers and this mask. `back` is where the `ret` before it goes: to an
/// `rt_sigreturn`; `xstate` is the address of what [`xstate`] made.
pub(super) fn frame(back: u64, regs: &Regs, mask: u64, xstate: u64) -> Vec<u8> {
    let r = regs;
    let flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    // cs, gs, fs, ss: the kernel takes cs and ss
    let selectors = (r.cs & 0xffff) | (r.ss & 0xffff) << 48;
    let head = [back, flags, 0, 0, NO_STACK, 0];
    let registers = [
        [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi],
        [r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp, r.rip, r.eflags],
    ];
    // error code, trap number, old mask and cr2 mean nothing here; 8 words are reserved
    let rest = [selectors, 0, 0, 0, 0, xstate, 0, 0, 0, 0, 0, 0, 0, 0, mask];
    let words = head.into_iter().chain(registers.into_iter().flatten()).chain(rest);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.resize(FRAME, 0);
    bytes
}

/// The extended state of a thread, as ptrace shows it, in the form in which a frame points to it. It ends with the last
/// part in use: a thread may not be permitted to use all that the machine has (AMX), and one that is longer than
/// the kernel has for it counts as damaged.
pub(super) fn xstate(shown: &[u8]) -> Vec<u8> {
    let mut state = shown.to_vec();
    state.resize(state.len().max(SHORTEST), 0);
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| state[at + i]));
    // ptrace says at this place which features there are
    let features = word(SOFTWARE);
    let mut used = word(HEADER);
    let parts = xsave::layout();
    // ptrace shows the thread's PKRU whatever the header says
    if let Some((_, at, _)) = parts.iter().find(|(i, at, _)| *i == PKRU && *at as usize + 4 <= state.len())
        && state[*at as usize..*at as usize + 4] != [0; 4]
    {
        used |= 1 << PKRU;
    }
    let end = parts.iter().filter(|(i, ..)| used >> i & 1 == 1).map(|(_, at, len)| (at + len) as usize).max();
    let len = end.unwrap_or(0).clamp(SHORTEST, state.len());
    state.truncate(len);
    state[HEADER..HEADER + 8].copy_from_slice(&used.to_le_bytes());
    let size = len as u32;
    let software = [
        FP_XSTATE_MAGIC1.to_le_bytes().as_slice(),
        &(size + 4).to_le_bytes(),
        &features.to_le_bytes(),
        &size.to_le_bytes(),
        &[0; HEADER - SOFTWARE - 20],
    ]
    .concat();
    state[SOFTWARE..HEADER].copy_from_slice(&software);
    state.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    state
}

/// Bytes that [`xstate`] needs at most on this machine.
pub(super) fn most() -> usize {
    SHORTEST.max(xsave::area_size() as usize) + 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::regs::from_words;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
    }

    #[test]
    fn a_frame_has_everything_where_the_kernel_looks_for_it() {
        let words: Vec<u64> = (100..127).collect();
        let regs = from_words(&words).unwrap();
        let frame = frame(7, &regs, 0xabcd, 0x4000);
        assert_eq!(frame.len(), FRAME);
        assert_eq!((word(&frame, 0), word(&frame, 8)), (7, 7));
        // mcontext of <asm/sigcontext.h>
        let at = |name: usize| word(&frame, 48 + 8 * name);
        assert_eq!((at(0), at(7), at(8), at(12)), (regs.r8, regs.r15, regs.rdi, regs.rdx));
        assert_eq!((at(13), at(14), at(15), at(16)), (regs.rax, regs.rcx, regs.rsp, regs.rip));
        assert_eq!((at(17), at(18) & 0xffff, at(18) >> 48), (regs.eflags, regs.cs, regs.ss));
        assert_eq!((at(23), word(&frame, 304)), (0x4000, 0xabcd));
    }

    #[test]
    fn extended_state_ends_with_what_is_used_and_its_length_is_said() {
        let mut shown = vec![0; xsave::area_size() as usize];
        shown[SOFTWARE..SOFTWARE + 8].copy_from_slice(&xsave::components().to_le_bytes());
        shown[HEADER] = 3;
        let state = xstate(&shown);
        assert_eq!(state.len(), SHORTEST + 4);
        assert_eq!(word(&state, SOFTWARE + 8), xsave::components());
        assert_eq!(word(&state, SOFTWARE + 16), SHORTEST as u64);
        assert_eq!(state[SHORTEST..], FP_XSTATE_MAGIC2.to_le_bytes());
        for (i, at, len) in xsave::layout().iter().filter(|(i, ..)| *i < 8) {
            shown[HEADER] = 3 | 1 << i;
            assert_eq!(xstate(&shown).len(), (at + len) as usize + 4);
        }
    }
}
