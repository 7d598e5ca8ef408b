"""The tables, as the migrations make them; nothing here creates anything."""

from __future__ import annotations

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

space = Table(
    "space",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("model", Text, nullable=False),
    Column("detector", Text, nullable=False),
    Column("align", Text, nullable=False),
    Column("normalization", Text, nullable=False),
    Column("pipeline_version", Integer, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("trimmed_to", BigInteger, nullable=False, server_default=text("0")),
    Column("stamp", BigInteger, nullable=False, server_default=text("(random() * 9e18)::bigint")),
    Column("engine", Text, nullable=False, server_default=text("'auto'")),
    Column("seal", LargeBinary),
    _now("created_at"),
    Index(
        "space_recipe_key",
        "model",
        "detector",
        "align",
        "normalization",
        "pipeline_version",
        text("coalesce(seal, ''::bytea)"),
        unique=True,
    ),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("key", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("gallery", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("audit_log_gallery_ix", "gallery", "id"),
)

api_key = Table(
    "api_key",
    metadata,
    _id(),
    Column("prefix", Text, nullable=False, unique=True),
    Column("hash", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("galleries", ARRAY(Text)),
    _now("created_at"),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
)

gallery = Table(
    "gallery",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("active_space_id", Integer, ForeignKey("space.id")),
    Column("building_space_id", Integer, ForeignKey("space.id")),
    Column("retention_days", Integer),
    Column("quality", Text, nullable=False, server_default=text("'accept'")),
    Column("seal", LargeBinary),
    _now("created_at"),
)

identity = Table(
    "identity",
    metadata,
    _id(),
    Column("gallery_id", BigInteger, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _now("created_at"),
    UniqueConstraint("gallery_id", "name"),
)

image = Table(
    "image",
    metadata,
    _id(),
    Column("gallery_id", BigInteger, ForeignKey("gallery.id", ondelete="CASCADE"), nullable=False),
    Column(
        "identity_id", BigInteger, ForeignKey("identity.id", ondelete="CASCADE"), nullable=False
    ),
    Column("source", Text, nullable=False),
    Column("uploaded", Boolean, nullable=False, server_default=text("false")),
    Column("root", Text),
    Column("locator", Text),
    Column("sha256", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger),
    Column("width", Integer),
    Column("height", Integer),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("flags", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    _now("created_at"),
    UniqueConstraint("gallery_id", "root", "locator"),
    Index("image_identity_id_ix", "identity_id"),
    Index("image_gallery_id_sha256_ix", "gallery_id", "sha256"),
    Index(
        "image_content_key",
        "identity_id",
        "sha256",
        unique=True,
        postgresql_where=text("state IN ('ready', 'no_face')"),
    ),
)

original = Table(
    "original",
    metadata,
    Column("image_id", BigInteger, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

extraction = Table(
    "extraction",
    metadata,
    Column("space_id", Integer, ForeignKey("space.id", ondelete="CASCADE"), primary_key=True),
    Column("image_id", BigInteger, ForeignKey("image.id", ondelete="CASCADE"), primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Index("extraction_image_id_ix", "image_id"),
)

face = Table(
    "face",
    metadata,
    _id(),
    Column("image_id", BigInteger, ForeignKey("image.id", ondelete="CASCADE"), nullable=False),
    Column("space_id", Integer, ForeignKey("space.id"), nullable=False),
    Column("box", ARRAY(REAL), nullable=False),
    Column("landmarks", ARRAY(REAL)),
    Column("confidence", REAL, nullable=False),
    Column("quality", REAL, nullable=False),
    Index("face_image_id_space_id_ix", "image_id", "space_id"),
)

embedding = Table(
    "embedding",
    metadata,
    Column("space_id", Integer, ForeignKey("space.id"), primary_key=True),
    Column("face_id", BigInteger, ForeignKey("face.id", ondelete="CASCADE"), primary_key=True),
    Column("gallery_id", BigInteger, nullable=False),
    Column("vec", VECTOR(), nullable=False),
    Index("embedding_face_id_ix", "face_id"),
    Index("embedding_gallery_id_ix", "gallery_id"),
    postgresql_partition_by="LIST (space_id)",
)

change_log = Table(
    "change_log",
    metadata,
    Column("space_id", Integer, ForeignKey("space.id", ondelete="CASCADE"), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("stamp", BigInteger, nullable=False, server_default=text("0")),
    Column("face_id", BigInteger, nullable=False),
    Column("op", Text, nullable=False),
    _now("at"),
    Index("change_log_space_id_version_ix", "space_id", "version"),
)

job = Table(
    "job",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True, server_default=func.gen_random_uuid()),
    Column("kind", Text, nullable=False),
    Column("gallery", Text, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("phase", Text, nullable=False, server_default=text("''")),
    Column("done", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("errors", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("error", Text),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    _now("created_at"),
    Column("started_at", DateTime(timezone=True)),
    Column("heartbeat_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Index("job_state_created_at_ix", "state", "created_at"),
)
