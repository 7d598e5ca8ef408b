"""What can go wrong with what is to be imported; only commands import, so HTTP knows no problem of it."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

from indexer.errors import IndexerError


class BadSource(IndexerError):
    """What is to be imported is damaged, hostile or not understood; the message says what. Nothing of it was stored."""


DAMAGED_ZIP = (
    OSError, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
"""What Python's reader of ZIP files raises at one that is damaged."""
