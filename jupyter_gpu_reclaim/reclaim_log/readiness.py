"""Whether a log could be kept at an URL, found out without making, migrating or writing anything."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from jupyter_gpu_reclaim.reclaim_log.database import shown

__all__ = ["problem", "shown"]

PATIENCE_SECONDS = 5


def problem(db_url: str) -> str | None:
    """Why not, as the middle of a sentence; None where nothing stands against it. Blocks for some seconds at most."""
    try:
        url = make_url(db_url)
    except (ArgumentError, ValueError):
        return "it is no SQLAlchemy URL"
    if url.get_backend_name() == "sqlite":
        path = url.database
        return None if not path or path == ":memory:" or path.startswith("file:") else _of_file(Path(path))
    wait = {"connect_timeout": PATIENCE_SECONDS} if url.get_backend_name() == "postgresql" else {}
    try:
        engine = create_engine(url, connect_args=wait)
    except (SQLAlchemyError, ImportError) as error:
        return f"{error} (is the database's driver installed? for PostgreSQL: the extra `postgres`)"
    try:
        with engine.connect():
            return None
    except SQLAlchemyError as error:
        return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    finally:
        engine.dispose()


def _of_file(path: Path) -> str | None:
    """SQLite writes side files, too: the folder has to be writable, or one above it in which it can be made."""
    if path.exists():
        if not path.is_file():
            return "it is no file"
        if not os.access(path, os.R_OK | os.W_OK):
            return "it may not be read and written by this user"
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is no folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written to by this user"
