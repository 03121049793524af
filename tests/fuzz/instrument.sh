#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of tests/fuzz.sh: compiles our own crates with coverage counters. The flags are those of cargo-fuzz,
# without its sanitizer, which alone needs a nightly compiler. The counters of functions that nothing calls must go with them: libFuzzer looks at
# all counters after each input, and with the unused ones of six daemons' crates that took most of the time. They go since
# each shares a section group with its function, which the linker keeps or drops as one; fuzz.sh sees that enough are left.
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
