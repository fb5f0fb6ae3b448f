#!/usr/bin/env bash
# Renders pages of `inspect --format html` and `bench report` with headless Chromium at the widths of a phone and a desktop, in light and dark.
# Fails when the console has an error or a page is wider than its window.
#
#   tests/scripts/html_shots.sh FOLDER PAGE.html...      screenshots go to FOLDER
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
folder="$(mkdir -p "$1" && cd "$1" && pwd)"
shift
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
browser() {
    timeout 120 "${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr \
        --allow-file-access-from-files --user-data-dir="$work/profile" --window-size=1300,1600 "$@"
}

failed=0
for page in "$@"; do
    name="$(basename "$page" .html)"
    cp "$page" "$work/page.html"
    for width in 390 1280; do
        # A window of Chromium has a least width, a frame has none.
        cat > "$work/frame.html" <<HTML
<!doctype html><body style="margin:0"><iframe src="page.html" style="border:0;width:${width}px;height:1600px"></iframe>
<script>
onload = () => {
    const page = document.querySelector("iframe").contentDocument;
    const rows = page.querySelectorAll("tbody tr").length;
    document.body.dataset.found = "wide " + (page.documentElement.scrollWidth - $width) + " rows " + rows;
};
</script></body>
HTML
        for scheme in light dark; do
            dark=()
            [ "$scheme" = light ] || dark=(--blink-settings=preferredColorScheme=0)
            shot="$folder/$name-$width-$scheme.png"
            browser "${dark[@]}" --screenshot="$shot" "file://$work/frame.html" 2> "$work/log" || failed=1
            browser "${dark[@]}" --dump-dom "file://$work/frame.html" > "$work/dom" 2>> "$work/log" || failed=1
            found="$(grep -o 'data-found="[^"]*"' "$work/dom" || true)"
            if grep 'CONSOLE' "$work/log"; then
                echo "$name at $width, $scheme: the console has errors" >&2
                failed=1
            fi
            if ! [[ "$found" =~ ^data-found=\"wide\ (-?[0-9]+)\ rows\ [1-9] ]] || [ "${BASH_REMATCH[1]}" -gt 0 ]; then
                echo "$name at $width, $scheme: needed no more than its width, and rows; found ${found:-nothing}" >&2
                failed=1
            fi
            echo "$shot $found"
        done
    done
done
exit $failed
