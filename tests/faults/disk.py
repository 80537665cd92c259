"""A disk that takes nothing, and a database that somebody else writes to."""

import contextlib
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection has begun to write and does not end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
