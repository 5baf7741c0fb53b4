#!/usr/bin/env python3
"""embed_migrations.py: what it takes, and what it must refuse."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).with_name('embed_migrations.py')
GOOD = '-- A note.\n-- up\nCREATE TABLE a (b TEXT DEFAULT \'x"y\\\');\n-- down\nDROP TABLE a;\n'


class EmbedMigrations(unittest.TestCase):
    def run_tool(self, files):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, 'migrations')
            source.mkdir()
            for name, text in files.items():
                (source / name).write_text(text, encoding='utf-8')
            output = pathlib.Path(folder, 'out.c')
            done = subprocess.run([sys.executable, TOOL, source, output, f'{output}.d'],
                                  capture_output=True, text=True, check=False)
            return done, output.read_text(encoding='utf-8') if output.exists() else ''

    def refuses(self, files, why):
        done, text = self.run_tool(files)
        self.assertEqual(done.returncode, 1, why)
        self.assertIn(why, done.stderr)
        self.assertEqual(text, '')

    def test_a_sequence_becomes_an_array(self):
        done, text = self.run_tool({'0001_a_make.sql': GOOD, '0002_b.sql': GOOD})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('.number = 1,\n        .name = "a_make",', text)
        self.assertIn('.number = 2,\n        .name = "b",', text)
        self.assertIn(r'''"CREATE TABLE a (b TEXT DEFAULT 'x\"y\\');\n"''', text)
        self.assertTrue(text.endswith('    { 0 },\n};\n'))

    def test_an_empty_folder_is_an_empty_array(self):
        done, text = self.run_tool({})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('db_migrations[] = {\n    { 0 },\n};', text)

    def test_blocks_are_of_one_dialect(self):
        both = '-- up\nSELECT 1;\n-- @sqlite\nSELECT 2;\n-- @postgres\nSELECT 3;\n-- @all\nSELECT 4;\n-- down\nSELECT 5;\n'
        _, text = self.run_tool({'0001_a.sql': both})
        sqlite, postgres = text.split('.postgres_up')
        for part, has, lacks in ((sqlite, 'SELECT 2', 'SELECT 3'), (postgres, 'SELECT 3', 'SELECT 2')):
            self.assertIn(has, part)
            self.assertNotIn(lacks, part)
            self.assertIn('SELECT 4', part)
        self.assertIn('SELECT 5', sqlite)
        self.assertNotIn('.postgres_down', postgres)  # the same

    def test_text_sorts_by_bytes_on_postgres(self):
        up = "-- up\nCREATE TABLE a (b TEXT, c TEXT COLLATE d DEFAULT 'TEXT'); -- TEXT\n-- @postgres\nSELECT 'x'::TEXT;\n-- down\nSELECT 1;\n"
        _, text = self.run_tool({'0001_a.sql': up})
        sqlite, postgres = text.split('.postgres_up')
        self.assertNotIn('COLLATE \\"', sqlite)
        self.assertIn(r'''(b TEXT COLLATE \"C\", c TEXT COLLATE d DEFAULT 'TEXT'); -- TEXT''', postgres)
        self.assertIn("'x'::TEXT;", postgres)

    def test_what_is_refused(self):
        self.refuses({'0001_a.sql': GOOD, '0003_c.sql': GOOD}, 'the next number is 0002')
        self.refuses({'0001_a.sql': GOOD, '0001_b.sql': GOOD}, 'the next number is 0002')
        self.refuses({'1_a.sql': GOOD}, 'not NNNN_word_what.sql')
        self.refuses({'0001_a.sql': '-- up\nSELECT 1;\n'}, 'no text under `-- down`')
        self.refuses({'0001_a.sql': '-- down\nSELECT 1;\n-- up\nSELECT 1;\n'}, 'one `-- up`, then one `-- down`')
        self.refuses({'0001_a.sql': 'SELECT 1;\n' + GOOD}, 'text before `-- up`')
        self.refuses({'0001_a.sql': GOOD + '-- @mysql\n'}, 'unknown or misplaced marker')
        self.refuses({'0001_a.sql': GOOD + 'COMMIT;\n'}, '`COMMIT` has no place')

    def test_a_trigger_may_hold_begin_and_end(self):
        trigger = '-- up\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\nDELETE FROM b;\nEND;\n-- down\nDROP TRIGGER t;\n'
        done, _ = self.run_tool({'0001_a.sql': trigger})
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == '__main__':
    unittest.main()
