#!/usr/bin/env bash
# Runs every fuzzer of a build for some seconds each, one after the other, and says where what it found lies.
#   tools/fuzz.sh [BUILD] [SECONDS] [NAME...]        names as in fuzz/meson.build; all of them by default
#
# New inputs gather in BUILD/found/<name>/, from where the next run goes on; what crashed lies in BUILD/crashes/<name>/. A crash is mended in a commit that
# puts its input into fuzz/corpus/<name>/, under the name that libFuzzer gave it: from then on `make test` shows it to every build.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build-fuzz}
seconds=${2:-60}
names=("${@:3}")
if [ ${#names[@]} -eq 0 ]; then
    for program in "$build"/fuzz/fuzz_*; do
        if [ -f "$program" ] && [ -x "$program" ]; then names+=("$(basename "$program" | sed 's/^fuzz_//')"); fi
    done
fi

failed=0
for name in "${names[@]}"; do
    found=$build/found/$name crashes=$build/crashes/$name log=$build/found/$name.log
    mkdir -p "$found" "$crashes"
    options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=2048 -print_final_stats=1 -artifact_prefix="$crashes/")
    dictionary=fuzz/dictionaries/${name%%_*}.dict
    if [ -f "$dictionary" ]; then options+=(-dict="$dictionary"); fi
    if nice "$build/fuzz/fuzz_$name" "${options[@]}" "$found" "fuzz/corpus/$name" >"$log" 2>&1; then
        printf '%-14s %s inputs tried, nothing found\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    else
        printf '%-14s FAILED; the input is the newest in %s, the report in %s\n' "$name" "$crashes" "$log"
        failed=1
    fi
done
exit $failed
