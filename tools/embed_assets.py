#!/usr/bin/env python3
"""Turns the files of a folder into the C array docs_assets[]: each plain, and with its .gz and .br beside it where they are.

The bytes come in by .incbin: as C text, a compiler takes a minute and a gigabyte for two megabytes. A folder that is not there makes an
empty array: the build then depends on the folder above it, whose time changes when somebody makes it.

usage: embed_assets.py FOLDER OUTPUT.c [DEPFILE]
"""
import hashlib
import pathlib
import re
import sys

NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')
TYPES = {'.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.txt': 'text/plain; charset=utf-8'}
CODINGS = {'': 'CODING_NONE', '.gz': 'CODING_GZIP', '.br': 'CODING_BROTLI'}


class Wrong(Exception):
    """What is wrong with which file."""


def assets(folder):
    """(path, type) of each plain file, sorted."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        if path.suffix in CODINGS:
            continue
        if not NAME.fullmatch(path.name) or path.suffix not in TYPES:
            raise Wrong(f'{path.name}: not a plain name that ends with one of {" ".join(TYPES)}')
        yield path, TYPES[path.suffix]


def blob(symbol, path):
    """The bytes under a symbol, and their declaration."""
    where = str(path.resolve()).replace('\\', '\\\\').replace('"', '\\"')
    return (f'__asm__(".pushsection .rodata\\n.balign 16\\n{symbol}:\\n.incbin \\"{where}\\"\\n.popsection\\n");\n'
            f'extern const char {symbol}[] __attribute__((visibility("hidden")));\n')


def generate(folder):
    blobs, rows, needs = [], [], []
    for number, (path, kind) in enumerate(assets(folder)):
        bodies = []
        for suffix, coding in CODINGS.items():
            variant = path.with_name(path.name + suffix)
            if not variant.is_file():
                continue
            symbol = f'docs_asset_{number}{suffix.replace(".", "_")}'
            blobs.append(blob(symbol, variant))
            bodies.append(f'[{coding}] = {{ {symbol}, {variant.stat().st_size} }}')
            needs.append(variant)
        etag = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        rows.append(f'    {{ "{path.name}", "{kind}", "{etag}", {{ {", ".join(bodies)} }} }},\n')
    text = ('/* Made by tools/embed_assets.py. */\n#include "feat/docs/docs_parts.h"\n\n' + ''.join(blobs) +
            '\nconst struct docs_asset docs_assets[] = {\n' + ''.join(rows) + '    { 0 },\n};\n')
    return text, needs


def main():
    if len(sys.argv) not in (3, 4):
        raise Wrong(__doc__.strip().splitlines()[-1])
    folder, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    text, needs = generate(folder)
    output.write_text(text, encoding='utf-8')
    if len(sys.argv) == 4:
        needs.append(folder if folder.is_dir() else folder.parent)
        names = ' '.join(str(path).replace(' ', '\\ ') for path in needs)
        pathlib.Path(sys.argv[3]).write_text(f'{output}: {names}\n', encoding='utf-8')


if __name__ == '__main__':
    try:
        main()
    except (Wrong, OSError) as wrong:
        sys.exit(f'assets: {wrong}')
