#!/bin/sh
# Lets foreign parsers judge the exposition: promtool (package prometheus) and the strict OpenMetrics parser of
# prometheus_client for Python. Fails if either finds anything, or is not installed.
set -eu
run() { cargo run --quiet --package ron-metrics --example exposition -- "$@"; }

run | promtool check metrics
echo "promtool: no findings"
run openmetrics | python3 -c '
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
samples = sum(len(family.samples) for family in families)
assert samples > 20, samples
print(f"openmetrics parser: {len(families)} families, {samples} samples")
'
