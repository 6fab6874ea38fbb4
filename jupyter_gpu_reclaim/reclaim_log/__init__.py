"""The append-only log of transitions, on SQLAlchemy."""
