#!/usr/bin/env bash
# Loom explores the interleavings of ryker's production code, with threads preempted at most twice.
# The full run is LOOM_MAX_PREEMPTIONS=3 .ci/check-ryker-loom.sh; RUSTFLAGS="--cfg loom" cargo test -p ryker -- --ignored
# runs the same models unoptimised, preempting once.
set -euo pipefail
cd "$(dirname "$0")/.."

export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-2}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
RUSTFLAGS="--cfg loom" cargo test --quiet -p ryker --release --lib -- --ignored interleavings
