"""Identifiers: an OpenAI-style prefix and random hex. The randomness comes from the Entropy port, so tests can pin it."""

from typing import Protocol

ID_BYTES = 12


class Entropy(Protocol):
    """A source of randomness."""

    def hex(self, size_bytes: int) -> str:
        """`size_bytes` random bytes as lower-case hex."""
        ...


def new_id(prefix: str, entropy: Entropy) -> str:
    """An id such as `chatcmpl-…`, `msg_…`, `call_…`: 96 random bits, 24 hex characters."""
    return prefix + entropy.hex(ID_BYTES)


def item_id(prefix: str, turn_id: str, index: int) -> str:
    """The id of a turn's item. It names the turn, so that whoever keeps turns finds the item by its id alone."""
    return f"{prefix}{turn_id.rpartition('_')[2]}_{index}"
