#!/usr/bin/env bash
# ryker under Miri, which sees data races, leaks of what it is told to watch and threads that sleep for ever. The crate has
# no unsafe code, so this is about its dependencies' and about the orderings that it relies on.
# Two to three minutes; every test of the mailbox and the actors, and 64 cases of the model: .ci/check-ryker-miri.sh full
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
if [[ ${1:-} == full ]]; then
  PROPTEST_CASES=64 timeout 7200 cargo "+$nightly" miri test -p ryker --lib --test mailbox --test actors --test model \
    >"$log" 2>&1 || failed=1
else
  PROPTEST_CASES=3 timeout 600 cargo "+$nightly" miri test -p ryker --test mailbox --test model >"$log" 2>&1 || failed=1
fi
if [[ -n ${failed:-} ]]; then
  grep -vE '^(test .* ok|running|   Compiling| *Running|$)' "$log" | tail -60
fi
awk -v s=$((SECONDS - begun)) '/^test result:/ { n += $4 } END { printf "Miri: %d tests passed, %d s\n", n, s }' "$log"
exit "${failed:-0}"
