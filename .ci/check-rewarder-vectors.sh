#!/usr/bin/env bash
# The golden vectors in a release build; the tests compute them in a debug build: .ci/check-rewarder-vectors.sh
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --release --quiet -p svc-rewarder -- vectors
