#!/usr/bin/env bash
# Runs every linter over the tree, prints the result of each and what to do about it. Goes on after a failure: one run shows all there is.
#   tools/lint/run.sh BUILD      BUILD holds compile_commands.json
set -uo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build}
jobs=2
export PYTHONDONTWRITEBYTECODE=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

sources() { git ls-files -co --exclude-standard -- "$@" | while read -r path; do [ -f "$path" ] && printf '%s\n' "$path"; done; }
format() { sources '*.c' '*.h' | xargs -r clang-format --dry-run -Werror; }
# Tests are left out: cmocka's assert macros hide control flow from the analyzer, and they double the time.
tidy() {
    run-clang-tidy -quiet -p "$build" -j "$jobs" -extra-arg=-Wno-unknown-warning-option '/(src|bench)/(?!.*/?test_)[^ ]*\.c$' 2>&1 | sed 's/\x1b\[[0-9;]*m//g' |
        grep -vE '^(clang-tidy|[0-9]+ warnings? (generated|treated)|Suppressed|Use -(header|system)|$)|warnings generated' >"$log.tidy"
    grep -E '(warning|error):' -A 3 "$log.tidy"
    local found=$?
    rm -f "$log.tidy"
    [ "$found" -ne 0 ]
}
check() {
    mkdir -p "$build/cppcheck"
    cppcheck --quiet --std=c11 --language=c -j "$jobs" --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
        --suppressions-list=tools/lint/cppcheck.txt --cppcheck-build-dir="$build/cppcheck" --template=gcc -D__linux__ -D_GNU_SOURCE \
        '-DWEIR_VERSION="0"' -Isrc $(sources 'src/*.c' 'src/**/*.c' | grep -v '/test_')
}

# Two linters of OpenAPI from npm, with versions of their own; without npm there is nothing to run them with.
openapi() {
    command -v npm >/dev/null || { echo "skipped: there is no npm"; return 0; }
    local at=tools/lint/node_modules bad=0
    [ "$at/.package-lock.json" -nt tools/lint/package-lock.json ] || (cd tools/lint && npm ci --silent && touch node_modules/.package-lock.json) || return 1
    "$build/weir" openapi >"$log.openapi.json" || return 1
    REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true "$at/.bin/redocly" lint "$log.openapi.json" --config tools/lint/redocly.yaml || bad=1
    "$at/.bin/spectral" lint "$log.openapi.json" --ruleset tools/lint/spectral.yaml --fail-severity hint || bad=1
    rm -f "$log.openapi.json"
    return $bad
}

step() { # name, what to do when it fails, command
    local name=$1 fix=$2 start=$SECONDS
    shift 2
    if "$@" >"$log" 2>&1; then
        printf 'ok     %-13s %3d s  %s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$log")"
    else
        failed=$((failed + 1))
        head -n 60 "$log"
        printf 'FAILED %-13s %3d s  %s\n' "$name" $((SECONDS - start)) "$fix"
    fi
}

step clang-format "run: make format" format
step layers "the sentence after each line says the way out" python3 tools/lint/layers.py
step functions "see the longest above" python3 tools/lint/functions.py
step banned "use what each line names, or excuse the file with a reason in tools/lint/banned.py" python3 tools/lint/banned.py
step clang-tidy "mend it; a false alarm gets // NOLINT(check) with a reason on the line before" tidy
step cppcheck "mend it; a false alarm gets // cppcheck-suppress id with a reason on the line before" check
step openapi "mend the table that the place comes from; rulesets are in tools/lint" openapi
[ "$failed" -eq 0 ] && echo "lint: all 7 clean" || echo "lint: $failed of 7 failed"
exit "$failed"
