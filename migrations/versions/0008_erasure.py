"""Receipts of erasures, the processes that hold a search cache, and which of them have acknowledged what.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE erasure (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL CHECK (kind IN ('gallery', 'identity', 'image')),
    gallery text NOT NULL,
    subject_id bigint NOT NULL,
    version bigint NOT NULL,
    versions jsonb NOT NULL
);
CREATE INDEX erasure_at_ix ON erasure (at);
CREATE TABLE cache_process (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE erasure_ack (
    erasure_id uuid NOT NULL REFERENCES erasure ON DELETE CASCADE,
    process_id uuid NOT NULL REFERENCES cache_process ON DELETE CASCADE,
    answered_at timestamptz NOT NULL DEFAULT now(),
    clean_at timestamptz,
    PRIMARY KEY (erasure_id, process_id)
);
CREATE INDEX erasure_ack_process_id_ix ON erasure_ack (process_id);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE erasure_ack; DROP TABLE cache_process; DROP TABLE erasure")
