#!/usr/bin/env bash
# The README's pictures, from the report that `make demo` left. Needs Chromium (CHROMIUM names it).
#     docs/pictures/make.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
report="$PWD/artifacts/demo/report.html"
[ -f "$report" ] || { echo "$report is missing: run make demo first" >&2; exit 1; }
browser="${CHROMIUM:-$(command -v chromium || command -v google-chrome)}"
profile="$(mktemp -d)"
trap 'rm -rf "$profile"' EXIT
shoot() { # name, height of the window, how far down the page it starts
    # A wrapper page scrolls the report: headless Chromium has no option for that.
    printf '<body style="margin:0;overflow:hidden"><iframe src="file://%s" style="border:0;width:1120px;height:20000px;margin-top:-%dpx"></iframe>' \
        "$report" "$3" >"$profile/$1.html"
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
        --disable-background-networking --user-data-dir="$profile/data" --window-size="1120,$2" \
        --screenshot="docs/pictures/$1.png" "file://$profile/$1.html" 2>/dev/null
}
shoot results "${RESULTS_HEIGHT:-1120}" 0
shoot queries "${QUERIES_HEIGHT:-900}" "${QUERIES_TOP:-2900}"
ls -l docs/pictures/*.png
