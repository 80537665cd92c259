"""Whether a request wants the answer cache: its header `x-trunkline-cache`, or a member of its body that is this server's alone.

The header comes first: `use` asks for the cache where the model does not, `bypass` goes past it, so that nothing that is kept is
given and nothing is kept. The member is `"nomyo": {"cache": true}`, say; its name is the profile's. It is taken out before anybody
reads the body, because no upstream knows it and some refuse what they do not know.
"""

import msgspec
from starlette.types import Scope

from trunkline.config.profiles import Profile
from trunkline.dialects.reading import NOT_JSON
from trunkline.model.errors import InvalidParameter
from trunkline.server.exchange import header

HEADER = "x-trunkline-cache"
_CHOICES = {b"use": True, b"bypass": False}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Own(msgspec.Struct):
    cache: bool | None = None


def cache_choice(scope: Scope, body: bytes, profile: Profile) -> tuple[bytes, bool | None]:
    """The body without the member, and what the request wants; None where it does not say. Raises InvalidParameter."""
    body, in_body = _without_member(body, profile.cache_member)
    in_header = choice_in_header(scope)
    return body, in_body if in_header is None else in_header


def choice_in_header(scope: Scope) -> bool | None:
    given = header(scope, HEADER.encode())
    if given is None:
        return None
    choice = _CHOICES.get(given.strip().lower())
    if choice is None:
        seen = given[:100].decode("latin-1")
        raise InvalidParameter(f"Invalid '{HEADER}': expected 'use' or 'bypass', got '{seen}'.", param=HEADER)
    return choice


def _without_member(body: bytes, name: str | None) -> tuple[bytes, bool | None]:
    if name is None or msgspec.json.encode(name) not in body:
        return body, None
    try:
        members = _MEMBERS.decode(body)
    except NOT_JSON:
        return body, None  # whoever reads it next says what is wrong
    own = members.pop(name, None)
    if own is None:  # the word was in a text
        return body, None
    try:
        choice = msgspec.json.decode(own, type=_Own | None)
    except msgspec.ValidationError:
        raise InvalidParameter(
            f"Invalid '{name}': expected an object such as {{\"cache\": true}}.", param=name
        ) from None
    return msgspec.json.encode(members), None if choice is None else choice.cache
