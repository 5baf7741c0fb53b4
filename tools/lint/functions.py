#!/usr/bin/env python3
"""Function length: median at most 15 lines, nine in ten at most 50, none over 100. Counts the lines between a `{` and its `}` at column 0.

Structs, enums and tables open their brace at the end of a line here, so they are not counted, and neither are the rows of a table
inside a function: data may be as long as it is. Tests are
held to the limit of 100 only. The share of comments is shown, aim 8-15 %, and fails nothing: a number makes nobody write a good one."""
import math
import re
import sys
from statistics import median
from sources import code_only, comment_lines, files, read

MEDIAN_MAX, NINETY_MAX, LONGEST_MAX = 15, 50, 100
TABLE_OPEN, TABLE_CLOSE = re.compile(r"=\s*\{\s*$"), re.compile(r"^\s*\};")


def functions(path):
    """(lines, path, line, name) of each function."""
    lines, start = code_only(read(path)).split("\n"), None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start, rows, table = number, 0, False
        elif line.startswith("}") and start:
            head = "\n".join(lines[max(0, start - 6):start - 1])
            name = re.findall(r"(\w+)\s*\(", head.rsplit(";", 1)[-1].rsplit("}", 1)[-1])
            yield number - start - 1 - rows, path, start, name[0] if name else "?"
            start = None
        elif start:
            table = (table or bool(TABLE_OPEN.search(line))) and not TABLE_CLOSE.match(line)
            rows += table


def main():
    sources = files("src/**/*.c", "src/*.c", "bench/*.c")
    is_test = lambda path: path.rsplit("/", 1)[-1].startswith("test_")
    every = sorted((f for path in sources for f in functions(path)), reverse=True)
    product = sorted(f[0] for f in every if not is_test(f[1]))
    if not product:
        print("no functions yet")
        return 0
    middle, ninety = median(product), product[math.ceil(len(product) * 0.9) - 1]
    comments = sum(comment_lines(read(p)) for p in sources if not is_test(p))
    total = sum(read(p).count("\n") for p in sources if not is_test(p))
    for length, path, line, name in every[:5]:
        print(f"  {length:4} lines  {name}  {path}:{line}")
    print(f"{len(product)} functions, median {middle:g} (max {MEDIAN_MAX}), 90 % {ninety} (max {NINETY_MAX}), "
          f"longest {every[0][0]} (max {LONGEST_MAX}); comments {100 * comments / max(total, 1):.0f} % of lines (aim 8-15 %)")
    if middle > MEDIAN_MAX or ninety > NINETY_MAX or every[0][0] > LONGEST_MAX:
        print("Split the longest where the story has a seam: give the part a name that says what it does, or turn branches into a table.")
        return 1
    return 0


sys.exit(main())
