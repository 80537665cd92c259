"""The one place through which everything a user sees goes.

What was asked for (the URL, a table, a version) is written to stdout; notes, progress and errors go to stderr, where
the log goes too. Colours only where a person reads: on a terminal, with NO_COLOR unset. Each line is flushed, so that a
program that waits for the URL line gets it. A reader that has gone away (`trunkline serve | head -1`) stops nothing.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from typing import TextIO

DOT_EVERY_S = 0.5


class Style(Enum):
    """What a piece of text is, as the SGR code that shows it."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    ERROR = "1;31"
    LINK = "1;36"


class Output:
    """Writes for people and for programs that read what people read."""

    def __init__(self, *, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._colours = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    @property
    def interactive(self) -> bool:
        """Whether notes are read on a terminal."""
        return self._stderr.isatty()

    def line(self, text: str = "", *, style: Style = Style.PLAIN) -> None:
        """What was asked for."""
        self._write(self._stdout, self._styled(text, style, self._stdout) + "\n")

    def note(self, text: str) -> None:
        """What is happening."""
        self._write(self._stderr, self._styled(text, Style.FAINT, self._stderr) + "\n")

    def error(self, text: str) -> None:
        """Why it does not go on."""
        self._write(self._stderr, f"{self._styled('trunkline: error:', Style.ERROR, self._stderr)} {text}\n")

    def styled(self, text: str, style: Style) -> str:
        """Text for a part of a `line`."""
        return self._styled(text, style, self._stdout)

    @asynccontextmanager
    async def progress(self, text: str) -> AsyncIterator[None]:
        """Says that something long happens while the block runs: one line, on a terminal with a dot now and then."""
        if not self.interactive:
            self.note(f"{text} …")
            yield
            return
        self._write(self._stderr, f"{text} ")
        dots = asyncio.create_task(self._dots())
        try:
            yield
        finally:
            dots.cancel()
            await asyncio.wait({dots})
            self._write(self._stderr, "\n")

    async def _dots(self) -> None:
        while True:
            await asyncio.sleep(DOT_EVERY_S)
            self._write(self._stderr, ".")

    def _styled(self, text: str, style: Style, stream: TextIO) -> str:
        if style is Style.PLAIN or not self._colours or not stream.isatty():
            return text
        return f"\x1b[{style.value}m{text}\x1b[0m"

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:  # a terminal without our characters still gets the message
                stream.write(text.encode("ascii", "replace").decode())
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # or the interpreter fails to flush when it ends
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Rows in columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
