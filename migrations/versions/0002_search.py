"""Stamps that tell histories apart, an engine per space, indexes of metadata, ANN indexes built live.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE space
    ADD COLUMN stamp bigint NOT NULL DEFAULT (random() * 9e18)::bigint,
    ADD COLUMN engine text NOT NULL DEFAULT 'auto'
        CHECK (engine IN ('auto', 'flat', 'compressed', 'database'));
ALTER TABLE change_log ADD COLUMN stamp bigint NOT NULL DEFAULT 0;
CREATE INDEX identity_metadata_ix ON identity USING gin (metadata jsonb_path_ops);
"""

# CREATE INDEX CONCURRENTLY runs in no function and no transaction, so the function only says it,
# after the removal of what a build that broke off has left.
# HNSW takes at most 2,000 dimensions of a vector and 4,000 of a halfvec, which needs half the
# memory at the same recall; beyond that the index is on the signs of the components.
FUNCTIONS = """
CREATE FUNCTION facesearch_index_statements(space integer, dim integer) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY[format('DROP INDEX CONCURRENTLY IF EXISTS %I', 'embedding_s' || space || '_ann'),
    format('CREATE INDEX CONCURRENTLY %I ON %I USING hnsw (%s)',
        'embedding_s' || space || '_ann', 'embedding_s' || space,
        CASE WHEN dim <= 256 THEN format('(vec::vector(%s)) vector_cosine_ops', dim)
             WHEN dim <= 4000 THEN format('(vec::halfvec(%s)) halfvec_cosine_ops', dim)
             ELSE format('(binary_quantize(vec)::bit(%s)) bit_hamming_ops', dim) END)]
$$;
DROP FUNCTION facesearch_index_partition(integer, integer);
DO $$
DECLARE
    old text;
BEGIN
    FOR old IN SELECT indexname FROM pg_indexes WHERE indexname ~ '^embedding_s[0-9]+_hnsw$' LOOP
        EXECUTE format('DROP INDEX %I', old);
    END LOOP;
END $$;
"""

BEFORE = """
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
DROP FUNCTION facesearch_index_statements(integer, integer);
DROP INDEX identity_metadata_ix;
ALTER TABLE change_log DROP COLUMN stamp;
ALTER TABLE space DROP COLUMN stamp, DROP COLUMN engine;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(BEFORE)
