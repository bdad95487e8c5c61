#!/bin/sh
# The Complete Journey from the raw tables to answers: data, pipeline, model server, two questions. `make demo` calls
# it in a project that is set up; BIN (.venv/bin) has the programs, DEMO_PORT (8500) is the server's port, and
# out/complete_journey has what it makes.
set -eu
cd "$(dirname "$0")/../.."

BIN=${BIN:-.venv/bin}
EXAMPLE=examples/complete_journey
OUT=out/complete_journey
PORT=${DEMO_PORT:-8500}
LOG=$OUT/server.log
HOUSEHOLD=1364
BANANAS=1082185
server=

stop_server() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" || true
    server=
}

fail() {
    echo "demo: $*" >&2
    exit 1
}

is_available() {
    "$BIN/python" - "localhost:$PORT" 2>/dev/null <<'PYTHON'
import sys

from twotower_client import Recommender

with Recommender(sys.argv[1]) as recommender:
    recommender.wait_until_ready(timeout=5)
PYTHON
}

# A server that ended is noticed even where another one answers on its port.
wait_for_server() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
        if is_available; then
            kill -0 "$server" 2>/dev/null || break
            return
        fi
        kill -0 "$server" 2>/dev/null || break
    done
    tail -n 5 "$LOG" >&2
    fail "found no model server of ours on port $PORT, expected one (its log: $LOG; another port: make demo DEMO_PORT=8600)"
}

trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$BIN/python" -c 'import socket, sys; socket.create_server(("", int(sys.argv[1]))).close()' "$PORT" 2>/dev/null ||
    fail "found port $PORT in use, expected a free one (another: make demo DEMO_PORT=8600)"
"$BIN/python" "$EXAMPLE/prepare.py" --out "$EXAMPLE/data"
"$BIN/twotower" run --spec "$EXAMPLE/spec.yaml" --out "$OUT"

"$BIN/twotower" serve --model-dir "$OUT/serving/recommender" --port "$PORT" >"$LOG" 2>&1 &
server=$!
wait_for_server

"$BIN/twotower" recommend --user "$HOUSEHOLD" --out "$OUT" --server "localhost:$PORT"
"$BIN/twotower" similar --item "$BANANAS" --out "$OUT" --server "localhost:$PORT"

stop_server
echo "The report: $OUT/report.html"
