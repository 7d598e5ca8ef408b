"""How long a gallery keeps uploads, and what people have consented to.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE gallery ADD COLUMN retention_days integer CHECK (retention_days > 0);
CREATE TABLE consent (
    identity_id bigint PRIMARY KEY REFERENCES identity ON DELETE CASCADE,
    basis text NOT NULL,
    given_at timestamptz,
    until timestamptz
);
CREATE INDEX consent_until_ix ON consent (until);
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE consent; ALTER TABLE gallery DROP COLUMN retention_days")
