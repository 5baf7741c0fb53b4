#!/usr/bin/env python3
"""Calls and texts that do not belong in the tree, each with what to do instead. Comments and strings of C do not count, except where a
row says `raw`. A file is excused only by a row of ALLOWED, with its reason."""
import re
import sys
from fnmatch import fnmatch
from sources import code_only, files, read

C = ("*.c", "*.h")
TESTS = ("src/**/test_*.c", "src/test_*.c", "tests/*", "tests/**/*")
ALL = ("*",)
# name, files, pattern, raw text?, what to do instead
RULES = [
    ("strings", C, r"\b(strcpy|strcat|sprintf|vsprintf|strtok|gets)\s*\(", False, "use str and buf of base, or snprintf"),
    ("numbers", C, r"\b(atoi|atol|atoll|atof)\s*\(", False, "use str_to_i64 of base: it tells failure from zero"),
    ("time", C, r"\b(gmtime|localtime|ctime|asctime|mktime)\s*\(", False, "use codec/time.h; time is a parameter"),
    ("random", C, r"\b(rand|random|srand|drand48)\s*\(", False, "use base/rng.h"),
    ("heap", ("src/**/*.c", "src/*.c"), r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf)\s*\(", False,
     "use the arena; when memory must outlive one, add a row with the reason to ALLOWED in tools/lint/banned.py"),
    ("sleep", TESTS, r"(?<!\w)(usleep|nanosleep|sleep|uv_sleep)\s*\(", True, "wait for a condition, or inject the clock"),
    ("sleep", ("tests/**/*.mjs", "tests/*.mjs"), r"\bsetTimeout\s*\(", True, "wait for a condition with until() of tests/lib/wait.mjs"),
    ("promise", ("*.c", "*.h", "*.mjs", "*.sh", "*.sql"), r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b", True,
     "do it, or write it into the issue"),
    ("machine", ALL, r"(/w[o]rk/|/f[a]rm/|/tmp/b[a]sh_jobs|/r[o]ot/|/h[o]me/[a-z]+/|registry\.npm[j]s|deb\.debia[n]\.)", True,
     "no path of one machine, no address of a package host"),
]
# rule, file pattern, reason
ALLOWED = [
    ("heap", "src/base/*", "base makes the memory that everybody else borrows"),
    ("heap", "src/codec/hash.c", "one digest context per thread, which outlives every arena"),
    ("heap", "src/core/pool.c", "threads and their queue live as long as the process"),
    ("heap", "src/engine/machine.c", "Lua's allocator, which counts against the cap of the state"),
    ("heap", "src/engine/expr_regex.c", "lives with a Lua state and outside of its cap; bounded by its slots"),
    ("heap", "src/*/test_*", "tests play the caller of an allocator"),
    ("heap", "src/*/*/test_*", "tests play the caller of an allocator"),
    ("sleep", "src/*/test_faults.c", "polls conditions with a bound, and leaves the threads that it looks at their turn"),
    ("sleep", "tests/lib/wait.mjs", "the one place that waits; it polls a condition and has a bound"),
]


def excused(rule, path):
    return any(rule == name and fnmatch(path, pattern) for name, pattern, _ in ALLOWED)


def complaints_of(rule, patterns, expression, raw, instead):
    find = re.compile(expression)
    for path in files(*patterns):
        if excused(rule, path) or path.endswith((".png", ".ico", "package-lock.json")):
            continue
        text = read(path)
        text = text if raw else code_only(text)
        for match in find.finditer(text):
            yield f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match.group(0).strip()}: {instead}"


def main():
    complaints = [line for row in RULES for line in complaints_of(*row)]
    lock = [p for p in files("*package-lock.json") if '"resolved"' in read(p)]
    complaints += [f'{p}: names download hosts: npm install --package-lock-only (its .npmrc leaves them out)' for p in lock]
    print("\n".join(complaints + [f"{len(RULES)} rules, {len(ALLOWED)} excuses, {len(complaints)} complaints"]))
    return 1 if complaints else 0


sys.exit(main())
