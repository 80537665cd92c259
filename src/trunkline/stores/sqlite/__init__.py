"""SQLite, from the standard library: one file in WAL mode, one thread that writes with group commit, one that reads.

Why not a connection for each request: a commit that reaches the disk costs a sync, and SQLite has one writer anyway. With one
thread that commits for everybody who waits, a write under load costs a small part of a sync, and no lock is ever contended.
"""

from pathlib import Path

from trunkline.config.schema import IdempotencySettings, StoreSettings
from trunkline.config.store_url import store_file, store_url_problem
from trunkline.model.errors import ConfigError
from trunkline.ports.runtime import Clock
from trunkline.stores.sqlite.store import SqliteStore


def build(
    settings: StoreSettings,
    *,
    base_dir: Path,
    clock: Clock,
    keyed: IdempotencySettings | None = None,
    max_run_age_s: float | None = None,
    lock_wait_s: float = 5.0,
) -> SqliteStore:
    """The store for these settings, not yet started. A relative file is relative to `base_dir`. Raises ConfigError."""
    wrong = store_url_problem(settings.url)
    if wrong:
        raise ConfigError(wrong, key="store.url")
    file = store_file(settings.url)
    return SqliteStore(
        None if file is None else base_dir / file,
        clock=clock,
        max_responses=settings.max_responses,
        max_sessions=settings.max_sessions,
        max_age_s=settings.max_age_s,
        keyed=keyed or IdempotencySettings(),
        max_run_age_s=max_run_age_s,
        lock_wait_s=lock_wait_s,
    )


__all__ = ["SqliteStore", "build"]
