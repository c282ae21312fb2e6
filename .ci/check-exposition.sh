#!/usr/bin/env bash
# The running demo's /metrics must satisfy promtool (Prometheus text) and a strict OpenMetrics parser.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
demo=
trap '[[ -z $demo ]] || kill "$demo" 2>/dev/null || true; rm -rf "$work"' EXIT

if ! command -v promtool >/dev/null; then
  apt-get update -q >/dev/null
  apt-get install -y -q prometheus >/dev/null
fi
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'prometheus_client==0.22.*'

cargo build -q -p ron-kernel-demo
RON_KERNEL_METRICS_ADDR=127.0.0.1:0 "$target/debug/ron-kernel-demo" --config configs/ron-kernel.toml >"$work/log" &
demo=$!
addr=
for _ in $(seq 100); do
  addr=$(sed -n 's/.*"event":"admin_listening".*"addr":"\([^"]*\)".*/\1/p' "$work/log")
  [[ -z $addr ]] || break
  sleep 0.1
done
[[ -n $addr ]] || { echo "the demo did not listen:"; cat "$work/log"; exit 1; }

curl -sSf -H 'Accept: text/plain;version=0.0.4' "http://$addr/metrics" >"$work/text"
curl -sSf -H 'Accept: application/openmetrics-text;version=1.0.0' "http://$addr/metrics" >"$work/openmetrics"
grep -q ron_kernel "$work/text"
# promtool exits 3 for lint remarks and 1 for text it cannot parse. Names are fixed by the runbooks, so remarks are shown
# and accepted.
status=0
promtool check metrics <"$work/text" || status=$?
if ((status != 0 && status != 3)); then
  echo "promtool refused the exposition (exit $status)"
  exit 1
fi
"$work/venv/bin/python" - "$work/openmetrics" <<'PY'
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open(sys.argv[1]).read()))
names = {family.name for family in families}
missing = {"ron_kernel_children", "service_restarts", "bus_lagged", "health_ready"} - names
assert not missing, missing
print(f"OpenMetrics: {len(families)} families, strictly parsed")
PY
