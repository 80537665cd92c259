"""Logs: an event's name and its fields, one line each (logfmt), to standard error.

The access log is one line per request and is on the hot path, so its lines are collected and written together a fifth of a
second later, or when 64 KB have gathered, and at the latest when the server closes. Everything else goes through `logging`.
"""

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TextIO

import msgspec

FLUSH_S = 0.2
FLUSH_BYTES = 65_536

_PLAIN = re.compile(r"[A-Za-z0-9_./:@-]+").fullmatch
FieldValue = str | int | float | bool | None


def logfmt(event: str, fields: Mapping[str, FieldValue], *, at_s: float) -> str:
    """One line. Absent (None) fields are left out; texts are quoted where they need it."""
    return line(event, logfields(fields), at_s=at_s)


def line(event: str, fields: str, *, at_s: float) -> str:
    """One line of fields that are written already."""
    return f"{_stamp(int(at_s))}.{int(at_s * 1000) % 1000:03}Z {event} {fields}\n"


def logfields(fields: Mapping[str, FieldValue]) -> str:
    """Fields as they stand in a line, without the absent ones."""
    return " ".join(
        [
            f"{key}={_text(value) if type(value) is str else value if type(value) is int else _other(value)}"
            for key, value in fields.items()
            if value is not None
        ]
    )


@lru_cache(maxsize=4)
def _stamp(second: int) -> str:
    """Formatting a date costs more than the rest of the line; a busy server writes many lines in one second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def _other(value: FieldValue) -> str:
    return f"{value:.3f}" if type(value) is float else str(value).lower()


def quoted(value: str) -> str:
    """A text, in quotes where it needs them."""
    if _PLAIN(value):
        return value
    # Lone surrogates can come out of percent-decoding; they must not break a log line.
    return msgspec.json.encode(value.encode("utf-8", "backslashreplace").decode()).decode()


_text = lru_cache(maxsize=512)(quoted)  # most values of a line are those of the line before; only ids are not


class AccessLog:
    """Collects lines and writes them in batches. `close` writes what is left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._size = 0
        self._flush_at: asyncio.TimerHandle | None = None

    def write(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()
        elif self._flush_at is None:
            self._flush_at = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        lines, self._lines, self._size = self._lines, [], 0
        if lines:
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads standard error any more; a request must not fail for that.
                self._stream = Path(os.devnull).open("w")  # noqa: SIM115 - lives as long as the log

    def close(self) -> None:
        self.flush()


class LogfmtFormatter(logging.Formatter):
    """`logging` records in the same shape as access lines."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, FieldValue] = {"level": record.levelname.lower(), "message": record.getMessage()}
        line = logfmt(record.name, fields, at_s=record.created).rstrip("\n")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(level: str, stream: TextIO) -> None:
    """Sends the loggers of trunkline and of its server library to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogfmtFormatter())
    for name, least in (
        ("trunkline", level),
        ("uvicorn", "warning" if level == "info" else level),
        ("asyncio", "warning"),
    ):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(least.upper())
