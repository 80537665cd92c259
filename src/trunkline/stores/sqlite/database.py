"""Opens a database: private, ours, of the schema this version knows.

A file that a newer version wrote is refused and left as it is. An older one is copied next to itself and then upgraded,
each step in a transaction. SQLite gives the -wal and -shm files the permissions of the database, so that it is enough to
create that one before SQLite does.

Everything here happens under the store's lock, and nothing here opens and closes the file behind SQLite's back once
SQLite has it open: POSIX would drop SQLite's own locks with that.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from trunkline.model.errors import ConfigError, StoreError
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.lock import open_private
from trunkline.stores.sqlite.migrations import MIGRATIONS

BUSY_S = 5.0
"""How long a lock of another program is waited out: a backup or a look into the file takes less."""

Migrations = Sequence[Sequence[str]]


class Database:
    """A connection to write on and one to read on. In memory both are the same, behind the same gate."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection | None) -> None:
        self.writer = writer
        self.writer_gate = threading.Lock()
        self.reader = reader or writer
        self.reader_gate = threading.Lock() if reader else self.writer_gate

    def close(self) -> None:
        """Reader first: the last connection to close moves the -wal file into the database."""
        self.reader.close()
        self.writer.close()


def open_database(path: Path | None, *, busy_s: float = BUSY_S, migrations: Migrations = MIGRATIONS) -> Database:
    """Opens the file, or a database in memory for None. Raises ConfigError for a file that is not right, StoreError."""
    if path is None:
        connection = _connect(":memory:", busy_s=busy_s)
        _set_up(connection)
        _migrate(connection, 0, migrations=migrations)
        return Database(connection, None)
    with contextlib.ExitStack() as opened:
        try:
            os.close(open_private(path))
            writer = opened.enter_context(contextlib.closing(_connect(str(path), busy_s=busy_s)))
            version = _checked_version(writer, path, newest=len(migrations))
            _use_write_ahead_log(writer, path)
            _set_up(writer)
            if 0 < version < len(migrations):
                _back_up(writer, path, version=version)
            _migrate(writer, version, migrations=migrations)
            reader = opened.enter_context(contextlib.closing(_connect(str(path), busy_s=busy_s)))
            _set_up(reader)
            reader.execute(sql.READ_ONLY)
            reader.execute(sql.USER_VERSION).fetchone()
            for suffix in ("-wal", "-shm"):
                _make_private(path.with_name(path.name + suffix))
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}", key="store.url") from None
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the store {path}: {error} ({_name(error)})") from error
        opened.pop_all()
    return Database(writer, reader)


def _connect(target: str, *, busy_s: float) -> sqlite3.Connection:
    return sqlite3.connect(target, timeout=busy_s, isolation_level=None, check_same_thread=False, cached_statements=128)


def _set_up(connection: sqlite3.Connection) -> None:
    for statement in sql.SET_UP:
        connection.execute(statement)


def _checked_version(connection: sqlite3.Connection, path: Path, *, newest: int) -> int:
    """The schema of the file; 0 for a new one. Nothing has been written to it yet."""
    try:
        version = int(connection.execute(sql.USER_VERSION).fetchone()[0])
        application = connection.execute(sql.APPLICATION_ID).fetchone()[0]
        tables = connection.execute(sql.TABLES).fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise
        raise ConfigError(
            f"{path} is not a SQLite database ({error}); give the name of a store or of a new file", key="store.url"
        ) from None
    if (tables or version) and application != sql.APPLICATION:
        raise ConfigError(
            f"{path} is a database of another program; give the name of a store or of a new file", key="store.url"
        )
    if version > newest:
        raise ConfigError(
            f"{path} was written by a newer version of trunkline (its schema is {version}, this version knows {newest}); "
            "use that version, or give another file",
            key="store.url",
        )
    return version


def _use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute(sql.WRITE_AHEAD).fetchone()[0]
    if mode != "wal":
        raise ConfigError(
            f"{path} is on a file system where SQLite has no write-ahead log (journal mode {mode!r}); use a local disk",
            key="store.url",
        )


def _back_up(connection: sqlite3.Connection, path: Path, *, version: int) -> None:
    """A whole copy beside the file before anything in it changes; it is there entirely or not at all."""
    backup = path.with_name(f"{path.name}.schema-{version}-backup")
    unfinished = path.with_name(f"{backup.name}-unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(open_private(unfinished))
    with contextlib.closing(sqlite3.connect(unfinished)) as copy:
        connection.backup(copy)
    unfinished.replace(backup)


def _migrate(connection: sqlite3.Connection, version: int, *, migrations: Migrations) -> None:
    """Each step in a transaction with its number: after a crash the file has the whole step or nothing of it."""
    for number, steps in enumerate(migrations[version:], start=version + 1):
        connection.execute(sql.BEGIN)
        try:
            for statement in steps:
                connection.execute(statement)
            connection.execute(sql.MARK)
            connection.execute(sql.SET_USER_VERSION.format(number))
            connection.execute(sql.COMMIT)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute(sql.ROLLBACK)
            raise


def _make_private(path: Path) -> None:
    """A file that SQLite has open: its mode, without opening it."""
    with contextlib.suppress(FileNotFoundError):  # made with the first write
        path.chmod(0o600)


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", None) or type(error).__name__)
