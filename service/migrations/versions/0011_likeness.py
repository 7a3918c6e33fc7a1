"""How much a series was acquired like its patient's earlier visit, and what is found by: when its study was.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("cases", sa.Column("studied_at", sa.Text(), nullable=True))
    op.add_column("cases", sa.Column("likeness", sa.Integer(), nullable=True))
    op.add_column("cases", sa.Column("likened_to", sa.Text(), nullable=True))
    op.create_index("ix_cases_patient_key_studied_at", "cases", ["patient_key", "studied_at"])
