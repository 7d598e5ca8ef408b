"""What a gallery does with doubtful photographs, and what was found doubtful in each.

Revision ID: 0006
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE gallery ADD COLUMN quality text NOT NULL DEFAULT 'accept'
    CONSTRAINT gallery_quality_check CHECK (quality IN ('accept', 'flag', 'reject'));
ALTER TABLE image ADD COLUMN flags text[] NOT NULL DEFAULT '{}';
ALTER TABLE image DROP CONSTRAINT image_state_check;
ALTER TABLE image ADD CONSTRAINT image_state_check CHECK
    (state IN ('ready', 'no_face', 'unreadable', 'duplicate', 'rejected'));
"""

DOWN = """
DELETE FROM image WHERE state = 'rejected';
ALTER TABLE image DROP CONSTRAINT image_state_check;
ALTER TABLE image ADD CONSTRAINT image_state_check CHECK
    (state IN ('ready', 'no_face', 'unreadable', 'duplicate'));
ALTER TABLE image DROP COLUMN flags;
ALTER TABLE gallery DROP COLUMN quality;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(UP)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(DOWN)
