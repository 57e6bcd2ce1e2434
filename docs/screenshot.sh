#!/bin/sh
# A picture of one page of a running dashboard: sh docs/screenshot.sh ADDRESS FILE.png [WIDTH,HEIGHT]
# Needs Chromium on the PATH (Debian: apt-get install chromium). ADDRESS is what launch/dashboard.py printed.
set -eu
[ $# -ge 2 ] || { echo "usage: sh docs/screenshot.sh ADDRESS FILE.png [WIDTH,HEIGHT]" >&2; exit 2; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || { echo "no chromium on the PATH" >&2; exit 2; }
profile=$(mktemp -d)
# MLflow opens its assistant's panel at the first visit of 127.0.0.1; under the other name of this machine it stays out of the picture
page=$(printf %s "$1" | sed 's|^http://127\.0\.0\.1|http://[::1]|')
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --host-resolver-rules="MAP [::1] 127.0.0.1,MAP ::1 127.0.0.1" --no-proxy-server \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$profile" --virtual-time-budget=60000 \
    --window-size="${3:-1600,1400}" --screenshot="$2" "$page" 2>/dev/null
[ -s "$2" ] || { echo "no picture was taken of $1" >&2; exit 1; }
