#!/usr/bin/env bash
# instructions.sh CRATE [--bless]: instructions per event or message of a crate's bench, counted under valgrind, must stay
# within 10 % of CRATE/benches/instructions.txt, which --bless writes anew. The scripts check-*-instructions.sh run it.
set -euo pipefail
cd "$(dirname "$0")/.."
crate=$1
baseline=$crate/benches/instructions.txt
target=${CARGO_TARGET_DIR:-target}
# Flags of the machine's owner would change the code that is counted.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

if ! command -v valgrind >/dev/null; then
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends valgrind >/dev/null
fi
# A directory of its own, so that features which other builds of the workspace unify do not get in.
program=$(CARGO_TARGET_DIR=$target/instructions cargo bench -q -p "$crate" --bench instructions --no-run \
  --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p')
[[ -x $program ]] || { echo "the counting program was not built"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
while read -r name events; do
  if ! valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
    '--toggle-collect=instructions::measured*' "$program" "$name" >"$work/log" 2>&1; then
    echo "case $name failed:"
    cat "$work/log"
    exit 1
  fi
  awk -v name="$name" -v events="$events" '
    / Collected : / && $NF > 0 { printf "%s %.1f\n", name, $NF / events; found = 1 }
    END { if (!found) { print "case " name ": nothing was collected"; exit 1 } }' "$work/log" >>"$work/now" ||
    { tail -1 "$work/now"; exit 1; }
done < <("$program")

compiler=$(rustc --version)
if [[ ${2:-} == --bless ]]; then
  { echo "# Instructions per event or message of 64 bytes, $compiler, x86-64."; cat "$work/now"; } >"$baseline"
  echo "$(wc -l <"$work/now") counts written to $baseline"
  exit
fi
awk -v compiler="$compiler" -v crate="$crate" '
  FNR == NR && /^#/ { if (index($0, compiler) == 0) other = " (counted with " compiler ", " substr($0, 3) ")"; next }
  FNR == NR { old[$1] = $2; next }
  !($1 in old) { print $1 ": has no baseline"; bad++; next }
  {
    ratio = $2 / old[$1]; n++; seen[$1]
    if (ratio > worst) worst = ratio
    if (ratio > 1.1) { printf "%s: %.1f instructions, was %.1f (%+.0f %%)\n", $1, $2, old[$1], 100 * (ratio - 1); bad++ }
    if (ratio < 0.9) { printf "%s: %.1f instructions, was %.1f: bless it, or the gain may be lost unseen\n", $1, $2, old[$1]; better++ }
  }
  END {
    for (name in old) if (!(name in seen)) { print name ": is in the baseline and not counted any more"; bad++ }
    if (bad) print bad " of the instruction counts are wrong" other "; if meant: .ci/instructions.sh " crate " --bless"
    else printf "%d instruction counts, the worst at %.0f %% of its baseline, %d better by more than 10 %%\n", n, 100 * worst, better
    exit bad > 0
  }' "$baseline" "$work/now"
