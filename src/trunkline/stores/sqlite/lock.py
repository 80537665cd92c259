"""One process for one store, by a lock on a file beside it.

Sessions, slots and the running of background work live in the process; two processes that shared the rows would each
believe that they run what the other runs. The lock is the kernel's: it goes with the process, however that ends. A
process that this one forks does not keep it. The file stays, for a file that comes and goes can be locked twice; the
process in it is only for the message.
"""

import fcntl
import os
from pathlib import Path

from trunkline.model.errors import ConfigError, StoreError

_HELD: set[int] = set()
"""Descriptors of this process's locks."""


def _fork() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_fork)


class FileLock:
    """The lock of one store, taken or not."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-lock")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours now. Raises ConfigError where there is no such folder, or none that we may write to."""
        try:
            descriptor = open_private(self._path)
        except OSError as error:
            raise ConfigError(
                f"cannot open {self._path}: {error.strerror}; give a file in a folder that exists and may be written to",
                key="store.url",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"cannot lock {self._path}: {error.strerror}; its file system must support locks"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        _HELD.add(descriptor)
        return True

    def holder(self) -> str:
        """Who has it, in words."""
        try:
            pid = self._path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            pid = ""
        return f"process {pid}" if pid.isdecimal() else "another process"

    def release(self) -> None:
        if self._descriptor is not None:
            _HELD.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def open_private(path: Path) -> int:
    """Opens or creates a file that only its owner can read, whatever the umask and whatever it was before."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
