"""What a failing database means to the person who must act: what happened, what was kept safe, what to do."""

from __future__ import annotations

from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log.rows import UnknownWord


class NewerSchema(Exception):
    """The database is at a revision that this version does not have."""


SAFE = {
    "write": "None of these rows was written, and the rows before them are as they were.",
    "read": "Nothing was changed.",
    "open": "Nothing was changed.",
}

BUSY = (
    "another program holds the database locked",
    "It is tried again with the next row; end what holds the lock.",
)
READ_ONLY = (
    "the database cannot be written",
    "Give the server's user write permission on the file and its folder, or set another db_url.",
)
FULL = ("the disk is full", "Free some space; the log goes on by itself.")
DAMAGED = (
    "the file is damaged or is no database",
    "Move it away (keep it: `sqlite3 FILE .recover` may save its rows); a new log is begun.",
)
UNREACHABLE = (
    "the database cannot be reached",
    "Check that it runs and that db_url names it; then it goes on by itself.",
)
DENIED = ("the database refuses this user", "Check the user, password and rights in db_url.")
TOO_SLOW = ("the database did not answer in time", "Check its load and its locks; then it goes on by itself.")
FOREIGN = (
    "its tables are not those of this log",
    "Restore them, or set another db_url; a table of ours that was dropped is not made again by itself.",
)
OTHER = ("the database reports an error", "Look the error up in its manual, or set another db_url.")

# SQLite's primary result codes (sqlite.org/rescode.html).
SQLITE = {
    1: FOREIGN,  # SQLITE_ERROR: our SQL is fixed, so what is wrong with it is the tables
    3: READ_ONLY,
    5: BUSY,
    6: BUSY,
    8: READ_ONLY,
    10: (
        "the disk reports an error",
        "Check the disk, its quota and the file system; then it goes on by itself.",
    ),
    11: DAMAGED,
    13: FULL,
    14: (
        "the file cannot be opened",
        "Check that the folder exists and that the server's user may write in it.",
    ),
    23: READ_ONLY,
    26: DAMAGED,
}

# PostgreSQL's SQLSTATE by its longest known prefix (appendix A of its manual).
POSTGRESQL = {
    "08": UNREACHABLE,
    "25006": READ_ONLY,
    "28": DENIED,
    "3D": ("there is no such database", "Create it, or correct db_url."),
    "3F": DENIED,  # no schema that this user may use
    "42": FOREIGN,
    "42501": DENIED,
    "53": UNREACHABLE,
    "53100": FULL,
    "55P03": BUSY,
    "57": UNREACHABLE,
    "57014": TOO_SLOW,
}


def unavailable(doing: str, where: str, error: BaseException) -> LogUnavailable:
    """The error as the port knows it. `doing` is "write", "read" or "open"; `where` must not hold a password."""
    happened, cure = _what_happened(error)
    detail = _original_text(error)
    done = {"write": "written", "read": "read", "open": "opened"}[doing]
    return LogUnavailable(
        f"The reclaim log {where} could not be {done}: {happened} ({detail}). {SAFE[doing]} {cure}"
    )


def late(doing: str, where: str, seconds: float, started: bool) -> LogUnavailable:
    """No answer within the bound. A write under way may still succeed, so the caller appends the same rows again."""
    safe = SAFE[doing]
    if doing == "write" and started:
        safe = "These rows may still be written; appending them again writes each once."
    return LogUnavailable(
        f"The reclaim log {where} did not answer within {seconds:g} s. {safe} "
        "Check the database's load and its locks, and the file system or network it lies on; "
        "then it goes on by itself."
    )


def closed(where: str) -> LogUnavailable:
    """The log was closed by its owner."""
    return LogUnavailable(
        f"The reclaim log {where} is closed. Nothing was changed. Start the server again to use it."
    )


def _original_text(error: BaseException) -> str:
    """The database's own words on one line, without the SQL and its parameters: those hold users' names."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(original).split()) or type(original).__name__


def _what_happened(error: BaseException) -> tuple[str, str]:
    if isinstance(error, NewerSchema | UnknownWord):
        return (
            "a newer version of jupyter_gpu_reclaim wrote it",
            "Upgrade jupyter_gpu_reclaim, or set another db_url.",
        )
    if isinstance(error, ArgumentError | NoSuchModuleError):
        return (
            "db_url is not understood",
            "Use sqlite:////absolute/path or postgresql+psycopg://user@host/name.",
        )
    if isinstance(error, ModuleNotFoundError):
        return "the database's Python driver is not installed", f"Run: pip install {error.name}"
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE.get(code & 0xFF, OTHER)
    if isinstance(error, DBAPIError):
        state = getattr(original, "sqlstate", None) or ""
        for length in (5, 2):
            if state[:length] in POSTGRESQL:
                return POSTGRESQL[state[:length]]
        return UNREACHABLE if error.connection_invalidated or not state else OTHER
    if isinstance(error, OSError):
        return (
            "its file or folder cannot be used",
            "Check that the folder exists and that the server's user may write in it.",
        )
    return OTHER
