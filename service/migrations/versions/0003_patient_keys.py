"""Patient keys are keyed with the installation's secret; the ids of the cases there are stay.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import context, op

from service.records.rekeying import rekey

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    rekey(op.get_bind(), context.config.attributes.get("secret"))
