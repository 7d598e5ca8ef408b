"""The audit log: each row holds the hash of the one before, so that a change of any shows.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE audit_log (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    key text NOT NULL,
    action text NOT NULL,
    gallery text NOT NULL,
    request_id text NOT NULL,
    detail jsonb NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_log_gallery_ix ON audit_log (gallery, id);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE audit_log")
