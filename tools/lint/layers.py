#!/usr/bin/env python3
"""Direction: a file includes only what stands below its layer, and each library has one home.

The link line proves the same (each layer is its own static library); this says it in a sentence, with the line and the way out."""
import re
import sys
from sources import files, read

RANK = {"base": 0, "codec": 1, "net": 2, "db": 2, "core": 3, "engine": 4, "feat": 5, "main": 6}

# library header -> where it may be included, as path prefixes; test_*.c of the same folder may as well
HOMES = [
    (r"sqlite3\.h|libpq-fe\.h", ["src/db/", "bench/"], "go through db/db.h"),
    (r"lua\.h|lualib\.h|lauxlib\.h|lua5\.4/.*", ["src/engine/"], "go through engine/expr.h"),
    (r"curl/.*", ["src/net/"], "go through net/client.h"),
    (r"llhttp\.h|nghttp2/.*|wslay/.*", ["src/net/"], "go through net/http.h"),
    (r"uv\.h", ["src/net/", "src/core/app", "bench/"], "go through net/loop.h"),
    (r"openssl/.*", ["src/codec/", "src/net/"], "go through codec/hash.h, or net for TLS"),
    (r"cmocka\.h", ["src/**/test_"], "only test_*.c knows cmocka"),
    (r"jansson\.h", ["src/**/test_", "bench/"], "our codec is codec/json.h"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def layer_of(path):
    parts = path.split("/")
    if parts[0] != "src":
        return None
    return parts[1] if len(parts) > 2 else "main"


def feature_of(path):
    parts = path.split("/")
    return parts[2] if parts[:2] == ["src", "feat"] and len(parts) > 3 else None


def feature_pairs():
    """`- triggers → workflows` rows below the heading "Feature pairs" of ARCHITECTURE.md."""
    try:
        text = read("ARCHITECTURE.md")
    except FileNotFoundError:
        return set()
    section = re.search(r"^#+ +Feature pairs\b.*?$(.*?)(?=^#|\Z)", text, re.M | re.S | re.I)
    rows = re.findall(r"^- *`?([a-z-]+)`? *(?:→|->) *`?([a-z-]+)`?", section.group(1) if section else "", re.M)
    return set(rows)


def may_hold(path, homes):
    is_test = path.rsplit("/", 1)[-1].startswith("test_")
    return any(is_test if home == "src/**/test_" else path.startswith(home) for home in homes)


def check_library(path, header):
    for pattern, homes, way_out in HOMES:
        if re.fullmatch(pattern, header) and not may_hold(path, homes):
            return f"<{header}> lives only in {', '.join(homes)}: {way_out}"
    return None


def check_feature(path, header, pairs):
    mine, parts = feature_of(path), header.split("/")
    if mine is None:
        return None if path == "src/feat/all.c" else "only features and src/feat/all.c name a feature"
    theirs = parts[1] if len(parts) > 2 else parts[1].removesuffix(".h")
    if theirs == mine:
        return None
    if header != f"feat/{theirs}/{theirs}.h":
        return f"another feature is reached only through feat/{theirs}/{theirs}.h"
    if (mine, theirs) not in pairs:
        return f'the pair is not listed: add "- {mine} → {theirs}" with its reason to ARCHITECTURE.md, "Feature pairs"'
    return None


def check_own(path, header, pairs):
    mine, theirs = layer_of(path), header.split("/")[0]
    if mine is None or "/" not in header or theirs not in RANK:
        return None
    if theirs == "feat" and mine in ("feat", "main"):
        return check_feature(path, header, pairs) if mine == "feat" else None
    if theirs == mine or RANK[theirs] < RANK[mine]:
        return None
    if RANK[theirs] == RANK[mine]:
        return f"{mine} and {theirs} stand side by side: what both need belongs below them"
    return f"{mine} stands below {theirs}: pass a function pointer, an event or a job instead"


def main():
    pairs, complaints = feature_pairs(), 0
    sources = files("src/**/*.c", "src/**/*.h", "src/*.c", "bench/*.c")
    for path in sources:
        text = read(path)
        for match in INCLUDE.finditer(text):
            check = check_own(path, match[2], pairs) if match[1] == '"' else check_library(path, match[2])
            if check:
                print(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: includes {match[2]}: {check}")
                complaints += 1
    print(f"{len(sources)} files, {len(pairs)} feature pairs, {complaints} complaints")
    return 1 if complaints else 0


sys.exit(main())
