"""The member of a body that is meant for this server alone, whatever the dialect: `"nomyo": {"cache": true}`, say.

Its name is the profile's. It is taken out before anybody reads the body, because no upstream knows it and some refuse what they do
not know.
"""

import msgspec

from trunkline.dialects.reading import NOT_JSON
from trunkline.model.errors import InvalidParameter

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Own(msgspec.Struct):
    cache: bool | None = None


def without_own_member(body: bytes, name: str | None) -> tuple[bytes, bool | None]:
    """The body without it, and whether it asks for the answer cache; None where it says nothing. Raises InvalidParameter."""
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
