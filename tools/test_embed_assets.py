#!/usr/bin/env python3
"""Tests of embed_assets.py: what comes out of a folder, and of none."""
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import embed_assets  # noqa: E402  (the path comes first)


class EmbedAssets(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)

    def tearDown(self):
        self.scratch.cleanup()

    def test_no_folder_is_an_empty_array(self):
        text, needs = embed_assets.generate(self.folder / 'dist')
        self.assertIn('docs_assets[] = {\n    { 0 },', text)
        self.assertEqual(needs, [])

    def test_each_file_with_the_codings_that_are_there(self):
        for name in ('b.js', 'b.js.gz', 'b.js.br', 'a.css'):
            (self.folder / name).write_text('x' * len(name))
        text, needs = embed_assets.generate(self.folder)
        self.assertIn('{ "a.css", "text/css; charset=utf-8", ', text)
        self.assertLess(text.index('"a.css"'), text.index('"b.js"'))
        self.assertIn('[CODING_NONE] = { docs_asset_1, 4 }, [CODING_GZIP] = { docs_asset_1_gz, 7 }, '
                      '[CODING_BROTLI] = { docs_asset_1_br, 7 }', text)
        self.assertEqual(len(needs), 4)

    def test_other_contents_have_another_etag(self):
        (self.folder / 'a.js').write_text('one')
        first, _ = embed_assets.generate(self.folder)
        (self.folder / 'a.js').write_text('two')
        self.assertNotEqual(first, embed_assets.generate(self.folder)[0])

    def test_what_has_no_type_is_refused(self):
        (self.folder / 'a.exe').write_text('')
        with self.assertRaises(embed_assets.Wrong):
            embed_assets.generate(self.folder)


if __name__ == '__main__':
    unittest.main()
