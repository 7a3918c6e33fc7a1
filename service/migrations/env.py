"""Alembic's environment: always on a connection handed in by service.records.upgrade, in one transaction."""

from __future__ import annotations

from alembic import context

from service.records.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
