"""Agents without `async`: each call runs in a thread of its own, so blocking calls are fine in them.

`trunkline serve examples/sync.py:stream` or `trunkline serve examples/sync.py:answer`.
"""

from collections.abc import Iterator

from trunkline.agent import Turn


def stream(turn: Turn) -> Iterator[str]:
    """A generator streams what it yields. Once the client has left, it is closed at its next `yield`."""
    for word in turn.input.split():
        yield word[::-1] + " "


def answer(turn: Turn) -> str:
    """A function that returns its answer sends it in one piece."""
    return f"{len(turn.messages)} messages so far, the last has {len(turn.input)} characters."
