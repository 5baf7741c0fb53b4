#!/usr/bin/env python3
"""Turns a file into a C constant: `const char NAME[]`, ending with a NUL that is not part of it.

usage: embed.py NAME INPUT OUTPUT.c
"""
import pathlib
import sys

name, source, output = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
data = source.read_bytes() + b'\0'
rows = ''.join('    ' + ', '.join(f'{byte:#04x}' for byte in data[i:i + 16]) + ',\n' for i in range(0, len(data), 16))
output.write_text(f'/* Made by tools/embed.py of {source.name}. */\nextern const char {name}[];\nconst char {name}[] = {{\n'
                  f'{rows}}};\n', encoding='ascii')
