"""What a store's URL means: `sqlite:///file`, three slashes before a relative path and four before an absolute one, or
`memory:`. What follows the slashes is the path as it is; nothing in it is escaped."""

import re
from pathlib import Path

MEMORY = "memory:"
_FILE = "sqlite:///"
_GUESSES = {":memory:": MEMORY, "memory": MEMORY, "sqlite://": MEMORY, "sqlite:///:memory:": MEMORY}
_ENDINGS = (".db", ".sqlite", ".sqlite3")
_OTHERS = re.compile(r"(?:sqlite\+\w+:///|(?:sqlite|file):(?://)?)(/?[^/@?:\s][^@?]*)")


def store_url_problem(url: str) -> str | None:
    """What is wrong with a store's URL, with a proposal where one can be guessed."""
    path = url.removeprefix(_FILE)
    if url == MEMORY or (url.startswith(_FILE) and path.strip("/ ") and path.isprintable() and url not in _GUESSES):
        return None
    guess = _GUESSES.get(url) or _guessed_file(url)
    hint = f" (did you mean {guess!r}?)" if guess else ""
    shown = f"{url.partition('://')[0]}://…" if "@" in url else url  # another database's URL may hold a password
    return f"expected 'sqlite:///FILE' or 'memory:', got {shown!r}{hint}"


def _guessed_file(url: str) -> str | None:
    """The URL of the file that this one may mean, as other programs write it."""
    written = _OTHERS.fullmatch(url)
    path = written[1] if written is not None else url if "://" not in url and url.endswith(_ENDINGS) else None
    return f"{_FILE}{path}" if path is not None and path.isprintable() else None


def store_file(url: str) -> Path | None:
    """The file that a URL without problems names; None: in memory."""
    return None if url == MEMORY else Path(url.removeprefix(_FILE))
