"""What can go wrong with what is to be imported; only commands import, so HTTP knows no problem of it."""

from __future__ import annotations

from indexer.errors import IndexerError


class BadSource(IndexerError):
    """What is to be imported is damaged, hostile or not understood; the message says what. Nothing of it was stored."""
