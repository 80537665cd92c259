"""What a store's URL means: `sqlite:///file`, three slashes before a relative path and four before an absolute one, or
`memory:`. What follows the slashes is the path as it is; nothing in it is escaped."""

from pathlib import Path

MEMORY = "memory:"
_FILE = "sqlite:///"
_GUESSES = {":memory:": MEMORY, "memory": MEMORY, "sqlite://": MEMORY, "sqlite:///:memory:": MEMORY}


def store_url_problem(url: str) -> str | None:
    """What is wrong with a store's URL, with a proposal where one can be guessed."""
    path = url.removeprefix(_FILE)
    if url == MEMORY or (url.startswith(_FILE) and path.strip("/ ") and path.isprintable() and url not in _GUESSES):
        return None
    guess = _GUESSES.get(url)
    if guess is None and "://" not in url and url.endswith((".db", ".sqlite", ".sqlite3")) and url.isprintable():
        guess = f"{_FILE}{url}"
    hint = f" (did you mean {guess!r}?)" if guess else ""
    shown = f"{url.partition('://')[0]}://…" if "@" in url else url  # another database's URL may hold a password
    return f"expected 'sqlite:///FILE' or 'memory:', got {shown!r}{hint}"


def store_file(url: str) -> Path | None:
    """The file that a URL without problems names; None: in memory."""
    return None if url == MEMORY else Path(url.removeprefix(_FILE))
