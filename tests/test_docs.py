"""The documents say what the code does."""

from __future__ import annotations

from pathlib import Path

from indexer import errors as indexer_errors
from service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[1]


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [
        name
        for name in ServiceSettings.model_fields
        if f"`FACESEARCH_{name.upper()}`" not in readme
    ]
    assert missing == []


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())


def test_every_error_says_what_it_means() -> None:
    for name, value in vars(indexer_errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert value.__doc__, name
