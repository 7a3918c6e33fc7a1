"""Living processes, counters, verdicts on instances set aside; nobody reads who sent to which case any more.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

UNJUDGED = sa.text("aside AND verdict IS NULL")


def upgrade() -> None:
    op.drop_table("arrivals")
    op.add_column("instances", sa.Column("verdict", sa.String(length=16), nullable=True))
    op.create_index("ix_instances_unjudged", "instances", ["case_id"], unique=False, sqlite_where=UNJUDGED, postgresql_where=UNJUDGED)
    op.create_table(
        "parts",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_parts")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=128), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", name=op.f("pk_counters")),
    )
