"""Galleries, identities, images, faces, spaces with one partition of embeddings each, changes, jobs.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE meta (key text CONSTRAINT meta_pkey PRIMARY KEY, value text NOT NULL);
INSERT INTO meta VALUES ('epoch', gen_random_uuid()::text);

CREATE TABLE space (
    id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT space_pkey PRIMARY KEY,
    model text NOT NULL,
    detector text NOT NULL,
    align text NOT NULL,
    normalization text NOT NULL,
    pipeline_version integer NOT NULL,
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    version bigint NOT NULL DEFAULT 0,
    trimmed_to bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT space_model_detector_align_normalization_pipeline_version_key
        UNIQUE (model, detector, align, normalization, pipeline_version)
);

CREATE TABLE gallery (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT gallery_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT gallery_name_key UNIQUE CHECK (name <> ''),
    active_space_id integer CONSTRAINT gallery_active_space_id_fkey REFERENCES space,
    building_space_id integer CONSTRAINT gallery_building_space_id_fkey REFERENCES space,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE identity (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT identity_pkey PRIMARY KEY,
    gallery_id bigint NOT NULL
        CONSTRAINT identity_gallery_id_fkey REFERENCES gallery ON DELETE CASCADE,
    name text NOT NULL CHECK (name <> ''),
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT identity_gallery_id_name_key UNIQUE (gallery_id, name)
);

CREATE TABLE image (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT image_pkey PRIMARY KEY,
    gallery_id bigint NOT NULL
        CONSTRAINT image_gallery_id_fkey REFERENCES gallery ON DELETE CASCADE,
    identity_id bigint NOT NULL
        CONSTRAINT image_identity_id_fkey REFERENCES identity ON DELETE CASCADE,
    source text NOT NULL CHECK (source IN ('tree', 'upload')),
    uploaded boolean NOT NULL DEFAULT false,
    root text,
    locator text,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    size bigint NOT NULL,
    mtime_ns bigint,
    width integer,
    height integer,
    state text NOT NULL CHECK (state IN ('ready', 'no_face', 'unreadable', 'duplicate')),
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT image_gallery_id_root_locator_key UNIQUE (gallery_id, root, locator),
    CHECK ((source = 'tree') = (root IS NOT NULL AND locator IS NOT NULL))
);
CREATE INDEX image_identity_id_ix ON image (identity_id);
CREATE INDEX image_gallery_id_sha256_ix ON image (gallery_id, sha256);
CREATE UNIQUE INDEX image_content_key ON image (identity_id, sha256) 
    WHERE state IN ('ready', 'no_face');

CREATE TABLE original (
    image_id bigint CONSTRAINT original_pkey PRIMARY KEY
        CONSTRAINT original_image_id_fkey REFERENCES image ON DELETE CASCADE,
    data bytea NOT NULL
);
ALTER TABLE original ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE extraction (
    space_id integer NOT NULL
        CONSTRAINT extraction_space_id_fkey REFERENCES space ON DELETE CASCADE,
    image_id bigint NOT NULL
        CONSTRAINT extraction_image_id_fkey REFERENCES image ON DELETE CASCADE,
    state text NOT NULL CHECK (state IN ('ready', 'no_face', 'unreadable', 'unavailable')),
    reason text,
    CONSTRAINT extraction_pkey PRIMARY KEY (space_id, image_id)
);
CREATE INDEX extraction_image_id_ix ON extraction (image_id);

CREATE TABLE face (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT face_pkey PRIMARY KEY,
    image_id bigint NOT NULL CONSTRAINT face_image_id_fkey REFERENCES image ON DELETE CASCADE,
    space_id integer NOT NULL CONSTRAINT face_space_id_fkey REFERENCES space,
    box real[] NOT NULL CHECK (cardinality(box) = 4),
    landmarks real[] CHECK (cardinality(landmarks) = 10),
    confidence real NOT NULL,
    quality real NOT NULL
);
CREATE INDEX face_image_id_space_id_ix ON face (image_id, space_id);

CREATE TABLE embedding (
    space_id integer NOT NULL CONSTRAINT embedding_space_id_fkey REFERENCES space,
    face_id bigint NOT NULL
        CONSTRAINT embedding_face_id_fkey REFERENCES face ON DELETE CASCADE,
    gallery_id bigint NOT NULL,
    vec vector NOT NULL,
    CONSTRAINT embedding_pkey PRIMARY KEY (space_id, face_id)
) PARTITION BY LIST (space_id);
CREATE INDEX embedding_face_id_ix ON embedding (face_id);
CREATE INDEX embedding_gallery_id_ix ON embedding (gallery_id);

CREATE TABLE change_log (
    space_id integer NOT NULL
        CONSTRAINT change_log_space_id_fkey REFERENCES space ON DELETE CASCADE,
    version bigint NOT NULL,
    face_id bigint NOT NULL,
    op text NOT NULL CHECK (op IN ('I', 'D')),
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX change_log_space_id_version_ix ON change_log (space_id, version);

CREATE TABLE job (
    id uuid CONSTRAINT job_pkey PRIMARY KEY DEFAULT gen_random_uuid(),
    kind text NOT NULL,
    gallery text NOT NULL,
    params jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    phase text NOT NULL DEFAULT '',
    done bigint NOT NULL DEFAULT 0,
    total bigint,
    counts jsonb NOT NULL DEFAULT '{}',
    errors jsonb NOT NULL DEFAULT '[]',
    error text,
    cancel_requested boolean NOT NULL DEFAULT false,
    attempts smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    heartbeat_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX job_state_created_at_ix ON job (state, created_at);
"""

# The partitions are made when a space is, so their DDL is a function that the store calls.
# A vector of up to some 1,900 dimensions fits a page and is kept in line: exact scans need not
# fetch it from elsewhere. HNSW takes at most 2,000 dimensions of a vector; beyond that the index
# is on the signs of its components.
FUNCTIONS = """
CREATE FUNCTION facesearch_add_partition(space integer, dim integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name text := 'embedding_s' || space;
BEGIN
    EXECUTE format('CREATE TABLE %I PARTITION OF embedding FOR VALUES IN (%s)', name, space);
    EXECUTE format('ALTER TABLE %I ADD CHECK (vector_dims(vec) = %s)', name, dim);
    EXECUTE format('ALTER TABLE %I ALTER COLUMN vec SET STORAGE %s', name,
                   CASE WHEN dim <= 1900 THEN 'PLAIN' ELSE 'EXTERNAL' END);
END $$;

CREATE FUNCTION facesearch_index_partition(space integer, dim integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name text := 'embedding_s' || space;
    expression text := CASE
        WHEN dim <= 2000 THEN format('(vec::vector(%s)) vector_cosine_ops', dim)
        ELSE format('(binary_quantize(vec)::bit(%s)) bit_hamming_ops', dim) END;
BEGIN
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I USING hnsw (%s)',
                   name || '_hnsw', name, expression);
END $$;

CREATE FUNCTION facesearch_drop_partition(space integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', 'embedding_s' || space);
END $$;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for function in ("drop_partition(integer)", "index_partition(integer, integer)"):
        op.execute(f"DROP FUNCTION facesearch_{function}")
    op.execute("DROP FUNCTION facesearch_add_partition(integer, integer)")
    for table in (
        "job",
        "change_log",
        "embedding",
        "face",
        "extraction",
        "original",
        "image",
        "identity",
    ):
        op.execute(f"DROP TABLE {table} CASCADE")
    for table in ("gallery", "space", "meta"):
        op.execute(f"DROP TABLE {table} CASCADE")
