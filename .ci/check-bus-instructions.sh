#!/usr/bin/env bash
# Instructions per event of the bus against ron-bus/benches/instructions.txt. After a meant change: .ci/check-bus-instructions.sh --bless
exec "$(dirname "$0")/instructions.sh" ron-bus "$@"
