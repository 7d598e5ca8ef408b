"""Hostile input, by the thousand: requests against a real server, and bytes for everything that reads files.

`python -m fuzzing requests` and `python -m fuzzing readers`; docs/fuzzing.md says what came of it.
"""
