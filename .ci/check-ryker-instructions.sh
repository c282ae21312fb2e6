#!/usr/bin/env bash
# Instructions per message of ryker against ryker/benches/instructions.txt. After a meant change: .ci/check-ryker-instructions.sh --bless
exec "$(dirname "$0")/instructions.sh" ryker "$@"
