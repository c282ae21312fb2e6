#!/usr/bin/env bash
# svc-ledger's store by PostgreSQL, Debian's, in a cluster of its own that goes when this ends.
set -euo pipefail
cd "$(dirname "$0")/.."

found() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
if [[ ! $(found) ]]; then
  apt-get install -qy postgresql >/dev/null 2>&1 || true
fi
bin=$(found)
if [[ ! $bin ]]; then
  echo "skipped: PostgreSQL cannot be installed here"
  exit 0
fi

dir=$(mktemp -d)
as=()
if ((EUID == 0)); then
  # It refuses to run as root.
  chown postgres "$dir"
  as=(runuser -u postgres --)
fi
cleanup() {
  "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap cleanup EXIT

"${as[@]}" "$bin/initdb" -D "$dir/data" -A trust -U ledger >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
# A socket in the directory, and no port.
"${as[@]}" "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -w -o "-k $dir -c listen_addresses=''" start >"$dir/log" 2>&1 ||
  { cat "$dir/log" "$dir/data/log"; exit 1; }

echo "$("$bin/postgres" --version), on a socket"
RON_TEST_POSTGRES="host=$dir user=ledger dbname=postgres" cargo test -p svc-ledger --test stores -- --include-ignored
