#!/bin/sh
# Installs the peers that are not crates: Erlang/OTP, from Debian.
set -eu
apt-get update
apt-get install -y --no-install-recommends erlang-base
