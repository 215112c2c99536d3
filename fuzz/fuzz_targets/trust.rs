//! See `ulpm::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ulpm::fuzzing::door("trust").expect("a door of that name")(bytes);
});
