"""A tool call that the engine was made to write, read while it is being written.

The grammar makes every answer `{"name": "…", "arguments": {…}}` with white space anywhere between. The head decides
the name; everything after it is arguments, except the brace that closes the whole. Which brace that is shows only at
the end, so a trailing run of braces and white space waits for what follows it.
"""

import re

import msgspec

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_UNDECIDED = " \t\r\n}"


class CallReader:
    """Feeds on text of one choice. `name` is None until it is known."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._text = ""
        self._begun = False

    def feed(self, text: str) -> str:
        """The piece of the arguments that is certain now, often empty."""
        self._text += text
        if self.name is None:
            head = _HEAD.match(self._text)
            if head is None:
                return ""
            self.name = msgspec.json.decode(head.group(1), type=str)
            self._text = self._text[head.end() :]
        if not self._begun:
            self._text = self._text.lstrip()
            self._begun = bool(self._text)
        certain = self._text.rstrip(_UNDECIDED)
        self._text = self._text[len(certain) :]
        return certain

    def close(self, *, whole: bool) -> str:
        """The rest of the arguments. `whole`: the engine reached the end of the grammar, not of its tokens."""
        rest, self._text = self._text, ""
        if self.name is None:
            return ""
        return rest.rstrip()[:-1].rstrip() if whole else rest
