#!/usr/bin/env bash
# micronode's store by S3 against moto's server, which is a mock of AWS: it keeps buckets in memory and checks no
# signatures. Debian 12 packages no S3-compatible server that stands alone. Refused credentials and a service that fails or
# hangs are tested against one made up by the tests, which run everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

version=5.2.5
dir=$(mktemp -d)
server=
cleanup() {
  if [[ $server ]]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap cleanup EXIT

if ! { python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet "moto[server]==$version"; } >"$dir/pip.log" 2>&1; then
  tail -3 "$dir/pip.log"
  echo "skipped: moto $version cannot be installed here"
  exit 0
fi

port=$("$dir/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$dir/venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$dir/server.log" 2>&1 &
server=$!
for _ in {1..150}; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    break
  fi
  kill -0 "$server" || { cat "$dir/server.log"; exit 1; }
  sleep 0.2
done

echo "S3-compatible server: moto $version, a mock, on 127.0.0.1:$port"
RON_TEST_S3=127.0.0.1:$port cargo test -p micronode --test http -- --ignored s3::
