"""Storage Commitment: the transaction a delivery was asked for in, and the instances that were named.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("transaction_uid", sa.Text(), nullable=True))
    op.add_column("deliveries", sa.Column("asked_instances", sa.JSON(), nullable=True))
    op.create_index("ix_deliveries_transaction_uid", "deliveries", ["transaction_uid"], unique=False)
