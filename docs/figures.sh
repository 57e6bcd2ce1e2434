#!/bin/sh
# The README's pictures, made again from a demo run: sh docs/figures.sh [RUNS] [OUT]
# RUNS: folder of runs; what is there of RUNS/demo is used, what is missing is made (default: a new folder, minutes on two cores).
# OUT: where the pictures go (default: docs). The MLflow page needs Chromium on the PATH; without it that picture stays as it is.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${2:-docs}
work=$(mktemp -d)
server=""
trap '[ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server"; } || true; rm -rf "$work"' EXIT
runs=${1:-$work/runs}
mkdir -p "$out"
[ -f "$runs/demo/fuse/xsub.json" ] || "$python" launch/demo.py --runs "$runs"
"$python" launch/figures.py --run "$runs/demo" --cluster local
figures=$runs/demo/figures
for picture in accuracy tsne mistakes; do
    cp "$figures/$picture.png" "$out/$picture.png"
    echo "$out/$picture.png"
done
cp "$figures"/mistakes/1-*.gif "$out/mistake.gif"
echo "$out/mistake.gif"
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "$out/compare.png: left as it is: no chromium on the PATH" >&2
    exit 0
fi
"$python" launch/dashboard.py --runs "$runs" --name demo >"$work/dashboard.log" 2>&1 &
server=$!
while ! grep -q "^Ctrl-C" "$work/dashboard.log"; do
    kill -0 "$server" 2>/dev/null || { cat "$work/dashboard.log" >&2; exit 1; }
    sleep 1
done
sh docs/screenshot.sh "$(sed -n 's/^demo, charts:* *//p' "$work/dashboard.log")" "$out/compare.png" 1600,1400
echo "$out/compare.png"
