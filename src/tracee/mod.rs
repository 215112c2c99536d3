//! A stopped process as an object: attach, freeze, remote syscalls, remote memory.
