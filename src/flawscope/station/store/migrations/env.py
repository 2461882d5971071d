"""Run by Alembic, with the connection that `database.migrate` gives it."""

from alembic import context

from flawscope.station.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
