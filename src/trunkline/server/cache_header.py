"""Whether a request wants the answer cache: its header `x-trunkline-cache`.

`use` asks for it where its model does not, `bypass` goes past it: then nothing that is kept is given, and nothing is kept.
"""

from starlette.types import Scope

from trunkline.model.errors import InvalidParameter
from trunkline.server.exchange import header

NAME = "x-trunkline-cache"
_CHOICES = {b"use": True, b"bypass": False}


def cache_choice_of(scope: Scope) -> bool | None:
    """None where the request does not say. Raises InvalidParameter for anything else."""
    given = header(scope, NAME.encode())
    if given is None:
        return None
    choice = _CHOICES.get(given.strip().lower())
    if choice is None:
        seen = given[:100].decode("latin-1")
        raise InvalidParameter(f"Invalid '{NAME}': expected 'use' or 'bypass', got '{seen}'.", param=NAME)
    return choice
