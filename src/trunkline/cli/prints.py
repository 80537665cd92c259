"""What runs in this process and prints: agents, their libraries, and the log.

Standard output is for what was asked for, the URL line above all, and a program may read just that line. So whatever
agents print goes to standard error. There a thread writes it: a pipe that nobody reads fills up after 64 KB, and
whoever writes to it then waits, which must be neither the loop nor an agent. What does not fit in LIMIT is dropped,
and how much is said once there is room.

A process that an agent forks has this stream and not its thread: there whoever prints writes for himself.
"""

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import TextIO

LIMIT = 4_000_000
"""Characters held for a reader that is behind."""
CLOSE_S = 1.0


class Prints(io.TextIOBase):
    """A text stream whose `write` never waits."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._texts: deque[str] = deque()
        self._held = 0
        self._dropped = 0
        self._writing = False
        self._closing = False
        self._forked = False
        os.register_at_fork(after_in_child=self._fork)
        self._thread = threading.Thread(target=self._work, name="prints", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        if self._forked:
            self._write_now(text)
            return len(text)
        with self._changed:
            if self._held + len(text) > LIMIT:
                self._dropped += len(text)
            elif text:
                self._held += len(text)
                self._texts.append(text)
                if not self._writing:
                    self._changed.notify()
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def finish(self, *, within_s: float = CLOSE_S) -> None:
        """Writes what is held, as far as somebody takes it in that time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _fork(self) -> None:
        self._forked = True

    def _write_now(self, text: str) -> None:
        """In a forked process. Past the stream, too: a thread that is not here may have held its lock."""
        data = text.encode(self.encoding, "backslashreplace")
        with contextlib.suppress(OSError, ValueError):
            while data:
                data = data[os.write(self.fileno(), data) :]

    def _work(self) -> None:
        while text := self._next():
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode("ascii", "backslashreplace").decode())
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads standard error any more; nothing may fail for that
                pass

    def _next(self) -> str:
        """What has gathered; empty at the end."""
        with self._changed:
            self._writing = False
            while not self._texts and not self._closing:
                self._changed.wait()
            self._writing = True
            text = "".join(self._texts)
            if self._dropped:
                text += f"\n[{self._dropped} characters were dropped: nobody read them in time]\n"
            self._texts.clear()
            self._held = self._dropped = 0
            return text


@contextlib.contextmanager
def printing_to(stream: TextIO) -> Iterator[Prints]:
    """What is printed meanwhile goes there, whichever stream it is printed to."""
    prints = Prints(stream)
    with contextlib.redirect_stdout(prints), contextlib.redirect_stderr(prints):
        try:
            yield prints
        finally:
            prints.finish()
