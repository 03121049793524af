//! A fuzz target, named by `QUIRE_FUZZ_TARGET`: `tests/fuzz.sh` builds and runs it with libFuzzer. Without that feature it
//! says so, and `cargo test -p tests --test fuzz` runs the kept corpora.
#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(init: tests::fuzz::named(), |data: &[u8]| tests::fuzz::named()(data));

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    eprintln!("built without libFuzzer; run tests/fuzz.sh");
    std::process::exit(69);
}
