#!/usr/bin/env bash
# Installs the Debian packages that are missing; silent and offline when none is.
#   tools/deps.sh [build] [test] [postgres] [lint]        what each needs stands in the lists below
set -euo pipefail

build=(build-essential meson ninja-build pkg-config python3 libuv1-dev libcurl4-openssl-dev libnghttp2-dev libwslay-dev libsqlite3-dev libpq-dev libsodium-dev
       liblua5.4-dev libssl-dev libpcre2-dev libseccomp-dev zlib1g-dev libbrotli-dev
       libqrencode-dev libcrypt-dev libhiredis-dev libarchive-dev)
test=(libcmocka-dev libjansson-dev openssl oathtool sqlite3 chromium)
postgres=(postgresql redis-server faketime haproxy nginx)
lint=(clang clang-format clang-tidy cppcheck git valgrind)

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

# Debian 12 ships llhttp as sources inside node-llhttp; from 13 on it is a library of its own.
llhttp() {
    if installed node-llhttp || installed libllhttp-dev; then return; fi
    if apt-cache show libllhttp-dev >/dev/null 2>&1; then echo libllhttp-dev; else echo node-llhttp; fi
}

# A Node that somebody installed by hand is as good as Debian's.
node_packages() {
    local major
    major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
    if [ "$major" -lt 18 ]; then echo nodejs; fi
    if ! command -v npm >/dev/null; then echo npm; fi
}

if ! command -v dpkg-query >/dev/null; then
    echo "deps: not a Debian system; install these by other means: ${build[*]} llhttp ${test[*]} nodejs npm ${lint[*]}" >&2
    exit 0
fi

wanted=()
for group in "${@:-build}"; do
    case "$group" in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    postgres) wanted+=("${postgres[@]}") ;;
    lint) wanted+=("${lint[@]}") ;;
    *) echo "deps: unknown group '$group'; use build, test, postgres or lint" >&2; exit 2 ;;
    esac
done

find_missing() {
    missing=()
    local package
    for package in "${wanted[@]}"; do installed "$package" || missing+=("$package"); done
    mapfile -t -O "${#missing[@]}" missing < <(llhttp)
    case " ${groups} " in *" test "*) mapfile -t -O "${#missing[@]}" missing < <(node_packages) ;; esac
}
groups="${*:-build}"
find_missing
[ "${#missing[@]}" -gt 0 ] || exit 0

root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "deps: run as root, or install sudo, to get: ${missing[*]}" >&2; exit 1; }
    root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${root[@]}" apt-get update -q </dev/null
find_missing # before the update apt may not have known which llhttp there is
echo "deps: installing ${missing[*]}"
"${root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
