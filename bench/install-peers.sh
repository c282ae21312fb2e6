#!/bin/sh
# Installs the peers that are not crates: Erlang/OTP, nginx, and wrk to load it, from Debian.
set -eu
apt-get update
apt-get install -y --no-install-recommends erlang-base nginx-light wrk
