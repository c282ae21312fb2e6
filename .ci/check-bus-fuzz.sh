#!/usr/bin/env bash
# The fuzz targets, those of the bus and of ryker above all, from their stored inputs on: .ci/check-bus-fuzz.sh [SECONDS [SANITIZER]]
# A bounded share of 60 seconds without sanitizer, which is six times as fast; the full run, half an hour with the address
# sanitizer: .ci/check-bus-fuzz.sh 1800 address
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
seconds=${1:-60} sanitizer=${2:-none}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR

nightly=$(rustup toolchain list | awk '/^nightly-/ { print $1; exit }')
if [[ -z $nightly ]]; then
  nightly=nightly-2026-05-20
  rustup -q toolchain install "$nightly" --profile minimal
fi
if ! command -v c++ >/dev/null; then
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends g++ >/dev/null
fi
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
quiet() {
  "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
}
if [[ ! -x $target/tools/bin/cargo-fuzz ]]; then
  CARGO_TARGET_DIR=$target/tools-build quiet cargo install --locked cargo-fuzz@0.13.1 --root "$target/tools"
  rm -rf "$target/tools-build"
fi
# Nobody may add a dependency by fuzzing.
quiet cargo fetch --locked --manifest-path fuzz/Cargo.toml
quiet env PATH="$target/tools/bin:$PATH" cargo "+$nightly" fuzz build --sanitizer "$sanitizer" --target-dir "$target/$sanitizer"
programs=$target/$sanitizer/$(rustc -vV | sed -n 's/^host: //p')/release
artifacts=$target/artifacts
mkdir -p "$artifacts"

# fuzz NAME TARGET SECONDS [LENGTH]: new inputs go to a directory that is thrown away.
fuzz() {
  mkdir -p "$work/$2"
  "$programs/$2" "$work/$2" "fuzz/corpus/$2" -max_total_time="$3" -max_len="${4:-400}" -timeout=20 -reload=1 -verbosity=1 \
    -artifact_prefix="$artifacts/" >"$work/$1.log" 2>&1
}

# Two processes, one for each core; the second one also takes its turn at the smaller targets.
failed=()
(fuzz ops-1 bus_ops "$seconds") &
first=$!
tenth=$((seconds / 10))
fuzz names bus_names "$tenth" || failed+=(names)
fuzz threads bus_threads "$tenth" || failed+=(threads)
fuzz probes probe_answers "$tenth" || failed+=(probes)
fuzz ryker-config ryker_config "$tenth" 800 || failed+=(ryker-config)
fuzz ryker-ops ryker_ops $((3 * tenth)) || failed+=(ryker-ops)
fuzz rewarder rewarder_documents "$tenth" 1200 || failed+=(rewarder)
fuzz ops-2 bus_ops $((seconds - 8 * tenth)) || failed+=(ops-2)
wait "$first" || failed+=(ops-1)
for name in "${failed[@]}"; do
  grep -aE -A8 "panicked at|^==|ERROR|SUMMARY|Test unit written|Base64" "$work/$name.log" | grep -avE '^ +#' | head -40
done
runs=$(cat "$work"/*.log | awk '/^Done [0-9]+ runs/ { runs += $2 } END { print runs + 0 }')
if ((${#failed[@]})); then
  echo "fuzzing found a fault (${failed[*]}); to see the operations:" \
    "RON_FUZZ_TRACE=1 cargo run --manifest-path fuzz/Cargo.toml --bin TARGET -- INPUT, inputs are in $artifacts"
  exit 1
fi
echo "$runs inputs in $seconds s, sanitizer $sanitizer: every law held"
