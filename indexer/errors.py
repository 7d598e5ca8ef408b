"""What can go wrong with the data. Facts only: the HTTP edge and the commands decide how to say it."""

from __future__ import annotations


class IndexerError(Exception):
    """Base of everything this package raises on purpose."""


class DatabaseUnavailable(IndexerError):
    """The database cannot be reached, or the embedded one cannot be started."""
