"""Galleries whose embeddings are turned by a secret matrix, each in spaces of its own.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE gallery ADD COLUMN seal bytea;
ALTER TABLE space ADD COLUMN seal bytea;
ALTER TABLE space DROP CONSTRAINT space_model_detector_align_normalization_pipeline_version_key;
CREATE UNIQUE INDEX space_recipe_key ON space
    (model, detector, align, normalization, pipeline_version, coalesce(seal, ''::bytea));
"""
BACK = """
DROP INDEX space_recipe_key;
ALTER TABLE space ADD CONSTRAINT space_model_detector_align_normalization_pipeline_version_key
    UNIQUE (model, detector, align, normalization, pipeline_version);
ALTER TABLE space DROP COLUMN seal;
ALTER TABLE gallery DROP COLUMN seal;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(TABLES)


def downgrade() -> None:
    """Fails where a gallery is protected: its embeddings would be taken for plain ones."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    bind = op.get_bind()
    if bind.exec_driver_sql("SELECT 1 FROM space WHERE seal IS NOT NULL LIMIT 1").scalar():
        raise RuntimeError("a gallery is protected; `facesearch galleries protect --off` it first")
    op.execute(BACK)
