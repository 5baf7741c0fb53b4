#!/usr/bin/env python3
"""Turns migrations/NNNN_word[_what].sql into the C array db_migrations[].

Each file has a section `-- up` and a section `-- down`. Where the dialects differ, a block `-- @sqlite` or `-- @postgres`
holds the text of one of them, up to the next `-- @` line; `-- @all` ends the block. Outside of a `-- @postgres` block TEXT
becomes TEXT COLLATE "C" there: ids and keys sort by their bytes on both, whatever the database's own collation is. Refused:
gaps in the numbers, a missing section, an unknown marker, and statements that end the transaction the migration runs in.

usage: embed_migrations.py FOLDER OUTPUT.c [DEPFILE]
"""
import argparse
import pathlib
import re
import sys

NAME = re.compile(r'(\d{4})_([a-z][a-z0-9]*(?:_[a-z0-9]+)*)\.sql')
MARKER = re.compile(r'--\s*(up|down|@.*)')
TRANSACTION = re.compile(r'(BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA|ATTACH|VACUUM)\b', re.IGNORECASE)
DIALECTS = ('sqlite', 'postgres')


class Wrong(Exception):
    """What is wrong with which file."""


TEXT = re.compile(r"('(?:[^']|'')*'|--.*)|\bTEXT\b(?!\s+COLLATE)")


def translated(line, block, dialect):
    """A line that stands for both dialects, as one of them wants it."""
    if dialect != 'postgres' or block == 'postgres':
        return line
    return TEXT.sub(lambda found: found[1] or 'TEXT COLLATE "C"', line)


def sections(path, dialect):
    """The up and the down text of one file, for one dialect."""
    found = {}
    here, block = None, 'all'
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        marker = MARKER.fullmatch(line.strip())
        word = marker[1] if marker else None
        if word in ('up', 'down'):
            if word in found or (word == 'down' and 'up' not in found):
                raise Wrong(f'{path.name}:{number}: one `-- up`, then one `-- down`')
            here, block = found.setdefault(word, []), 'all'
        elif word is not None:
            block = word[1:]
            if block not in (*DIALECTS, 'all') or here is None:
                raise Wrong(f'{path.name}:{number}: unknown or misplaced marker')
        elif here is None:
            if line.strip() and not line.startswith('--'):
                raise Wrong(f'{path.name}:{number}: text before `-- up`')
        elif block in ('all', dialect):
            here.append(translated(line, block, dialect).rstrip())
    for word in ('up', 'down'):
        if not any(found.get(word, [])):
            raise Wrong(f'{path.name}: no text under `-- {word}`')
    return '\n'.join(found['up']).strip() + '\n', '\n'.join(found['down']).strip() + '\n'


def statements(sql):
    """Beginnings of statements, roughly: the body of a trigger, which may hold END, is skipped."""
    sql = re.sub(r'--[^\n]*', '', sql)
    sql = re.sub(r"'(?:[^']|'')*'", "''", sql)
    sql = re.sub(r'\bCREATE\s+TRIGGER\b.*?\bEND\s*;', ';', sql, flags=re.IGNORECASE | re.DOTALL)
    sql = re.sub(r'\$(\w*)\$.*?\$\1\$', "''", sql, flags=re.DOTALL)
    return [part.strip() for part in sql.split(';')]


def check(path, sql):
    for statement in statements(sql):
        if TRANSACTION.match(statement):
            raise Wrong(f'{path.name}: `{statement.split()[0]}` has no place inside a migration\'s transaction')


def literal(text):
    """A C string literal, a line of source for each line of text."""
    lines = []
    for line in text.splitlines(keepends=True):
        escaped = ''.join(c if c not in '\\"' else '\\' + c for c in line[:-1])
        escaped = escaped.replace('\t', '\\t').replace('??', '?\\?')
        lines.append(f'        "{escaped}\\n"')
    return '\n'.join(lines)


def migrations(folder):
    for expected, path in enumerate(sorted(folder.glob('*.sql')), 1):
        name = NAME.fullmatch(path.name)
        if name is None:
            raise Wrong(f'{path.name}: not NNNN_word_what.sql')
        if int(name[1]) != expected:
            raise Wrong(f'{path.name}: the next number is {expected:04}')
        texts = {dialect: sections(path, dialect) for dialect in DIALECTS}
        for up, down in texts.values():
            check(path, up)
            check(path, down)
        yield path, expected, name[2], texts


def row(number, name, texts):
    members = [f'        .number = {number}', f'        .name = "{name}"']
    for prefix, dialect in (('', 'sqlite'), ('postgres_', 'postgres')):
        for i, section in enumerate(('up', 'down')):
            if prefix == '' or texts[dialect][i] != texts['sqlite'][i]:
                members.append(f'        .{prefix}{section} =\n{literal(texts[dialect][i])}')
    return '    {\n' + ',\n'.join(members) + ',\n    },\n'


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('folder', type=pathlib.Path)
    arguments.add_argument('output', type=pathlib.Path)
    arguments.add_argument('depfile', type=pathlib.Path, nargs='?')
    options = arguments.parse_args()
    if not options.folder.is_dir():
        raise Wrong(f'{options.folder}: no such folder')
    found = list(migrations(options.folder))
    rows = [row(number, name, texts) for _, number, name, texts in found]
    options.output.write_text('/* Made by tools/embed_migrations.py. */\n#include "db/db.h"\n\n'
                              'const struct migration db_migrations[] = {\n' + ''.join(rows) + '    { 0 },\n};\n',
                              encoding='utf-8')
    if options.depfile:  # the folder itself too: a new file changes its time
        needs = ' '.join(str(p).replace(' ', '\\ ') for p in (options.folder, *(row[0] for row in found)))
        options.depfile.write_text(f'{options.output}: {needs}\n', encoding='utf-8')


if __name__ == '__main__':
    try:
        main()
    except (Wrong, UnicodeDecodeError) as wrong:
        sys.exit(f'migrations: {wrong}')
