#!/usr/bin/env bash
# Loom explores the interleavings of ron-bus's production code, with threads preempted at most twice.
# The full run is LOOM_MAX_PREEMPTIONS=4 .ci/check-bus-loom.sh; CONTRIBUTING says how long it takes.
set -euo pipefail
cd "$(dirname "$0")/.."

export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-2}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
RUSTFLAGS="--cfg loom" cargo test --quiet -p ron-bus --release --lib interleavings
