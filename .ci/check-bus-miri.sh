#!/usr/bin/env bash
# The bus under Miri, which sees undefined behaviour, data races, leaks and threads that sleep for ever: its tests, the
# inputs of the fuzz targets, and threads under several schedules.
# Two to four minutes; all tests and 256 schedules, more than an hour: .ci/check-bus-miri.sh full
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/miri
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
export RUST_BACKTRACE=0
# The bus reads the wall clock.
flags=-Zmiri-disable-isolation

nightly=$(rustup toolchain list | awk '/^nightly-/ { print $1; exit }')
if [[ -z $nightly ]]; then
  nightly=nightly-2026-05-20
  rustup -q toolchain install "$nightly" --profile minimal
fi
rustup -q component add --toolchain "$nightly" miri rust-src 2>/dev/null
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
cargo "+$nightly" miri setup >"$logs/setup" 2>&1 || { cat "$logs/setup"; exit 1; }

# miri FLAGS COMMAND..: what both lanes share; each has a directory of its own, so that they build side by side.
miri() {
  MIRIFLAGS="$flags $1" timeout "$limit" cargo "+$nightly" miri "${@:2}"
}

tests() {
  export CARGO_TARGET_DIR=$target/tests
  if [[ $mode == full ]]; then
    # Not stress and allocations, which are about speed and about the allocator. Panicking destructors leak by nature.
    miri "" test -p ron-bus --lib --test accounts --test auto_traits --test block --test closing --test conflate \
      --test control_lane --test delivery --test foreign_code --test interest --test lag --test memory --test tail \
      --test topics --test wakes
    PROPTEST_CASES=8 miri -Zmiri-ignore-leaks test -p ron-bus --test model --test panics
  else
    # Without those tests that repeat themselves thousands of times.
    miri "" test -p ron-bus --lib --test accounts --test block --test closing --test conflate --test control_lane \
      --test delivery --test interest --test lag --test wakes -- \
      --skip every_day_of_ten_thousand_years --skip of_a_thousand_parked_readers --skip a_reader_of_a_rare_class \
      --skip sleep_through_what_does_not_concern --skip a_storm_of_one_key --skip the_counts_delivered_add_up
  fi
}

inputs() {
  export CARGO_TARGET_DIR=$target/fuzz
  miri "-Zmiri-preemption-rate=0.05 -Zmiri-many-seeds=0..$seeds" \
    run --locked --manifest-path fuzz/Cargo.toml --bin bus_threads -- fuzz/corpus/bus_threads
  miri "" run --locked --manifest-path fuzz/Cargo.toml --bin bus_ops -- fuzz/corpus/bus_ops
}

mode=${1:-share} seeds=6 limit=900
if [[ $mode == full ]]; then
  seeds=256 limit=21600
fi
begun=$SECONDS failed=()
tests >"$logs/tests" 2>&1 &
lane=$!
inputs >"$logs/inputs" 2>&1 || failed+=(inputs)
wait "$lane" || failed+=(tests)
for log in "${failed[@]}"; do
  printf '%s under Miri:\n' "$log"
  grep -vE '^(test .* ok|running|Trying seed|   Compiling| *Running|$)' "$logs/$log" | tail -60
done
passed=$(awk '/^test result:/ { passed += $4 } END { print passed + 0 }' "$logs/tests")
replayed=$(awk '/ inputs replayed$/ { n += $1 } END { print n + 0 }' "$logs/inputs")
printf 'Miri: %d tests and %d inputs passed, %d schedules, %d s%s\n' \
  "$passed" "$replayed" "$seeds" $((SECONDS - begun)) "${failed[*]:+; failed: ${failed[*]}}"
exit $((${#failed[@]} > 0))
