#!/usr/bin/env bash
# ryker under Miri, which sees data races and threads that sleep for ever: the model, and threads that answer each other, both
# small. The crate has no unsafe code, so this is about what it depends on and the orderings it relies on. Two to three minutes;
# more cases, 64 schedules and the unit tests, which takes more than an hour: .ci/check-ryker-miri.sh full
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
export CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/miri/ryker
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
# The clock is the machine's, and its thread ends after the tests do.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" RUST_BACKTRACE=0

nightly=$(rustup toolchain list | awk '/^nightly-/ { print $1; exit }')
if [[ -z $nightly ]]; then
  nightly=nightly-2026-05-20
  rustup -q toolchain install "$nightly" --profile minimal
fi
rustup -q component add --toolchain "$nightly" miri rust-src 2>/dev/null
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo "+$nightly" miri setup >"$log" 2>&1 || { cat "$log"; exit 1; }

begun=$SECONDS
# What depends on how fast the machine is runs elsewhere: here a second is over after some hundred messages.
miri() {
  timeout "$1" cargo "+$nightly" miri test -p ryker "${@:2}" >>"$log" 2>&1 || failed=1
}
if [[ ${1:-} == full ]]; then
  PROPTEST_CASES=100 miri 7200 --lib --test model
  MIRIFLAGS+=" -Zmiri-preemption-rate=0.05 -Zmiri-many-seeds=0..64" miri 7200 --test stress
else
  PROPTEST_CASES=3 miri 600 --test model
  miri 600 --test stress two_threads
fi
if [[ -n ${failed:-} ]]; then
  grep -vE '^(test .* ok|running|   Compiling| *Running|$)' "$log" | tail -60
fi
awk -v s=$((SECONDS - begun)) '/^test result:/ { n += $4 } END { printf "Miri: %d tests passed, %d s\n", n, s }' "$log"
exit "${failed:-0}"
