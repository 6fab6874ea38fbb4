"""Run by Alembic for `schema.upgrade`, which hands over its connection and owns the transaction."""

from alembic import context

from jupyter_gpu_reclaim.reclaim_log.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
