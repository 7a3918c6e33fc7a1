"""Files that say what people said: an identity corrected by hand, the words beside a corrected mask.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("identities", sa.Column("path", sa.Text(), nullable=True))
    op.add_column("reader_verdicts", sa.Column("said", sa.Text(), nullable=True))
