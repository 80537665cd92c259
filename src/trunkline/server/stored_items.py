"""The items of a body in the form in which they are stored: the same for conversations and sessions."""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_responses.read_items import RawMembers, empty_array, read_item
from trunkline.dialects.openai_responses.write_items import input_items
from trunkline.dialects.reading import Json
from trunkline.model.errors import InvalidParameter
from trunkline.model.ids import new_id
from trunkline.model.items import Item, OpaqueItem
from trunkline.ports.stores import StoredItem, stored_item
from trunkline.server.runtime import Runtime


def stored_items(value: Json, body: bytes, runtime: Runtime, *, member: str, at_most: int) -> Sequence[StoredItem]:
    """The items in that member of the body; of several with one id the first. Raises InvalidParameter."""
    wire = reading.array(value, member)
    if len(wire) > at_most:
        raise InvalidParameter(
            f"Invalid '{member}': array too long. Expected an array with maximum length {at_most}, "
            f"but got an array with length {len(wire)} instead.",
            code="array_above_max_length",
            param=member,
        )
    members = RawMembers(body, member)
    items = [read_item(one, f"{member}[{position}]", members) for position, one in enumerate(wire)]
    for position, item in enumerate(items):
        _refuse_reference(item, f"{member}[{position}]")
    stored: dict[str, StoredItem] = {}
    for one in input_items(items, response_id=new_id("item_", runtime.entropy)):
        kept = stored_item(msgspec.json.encode(one))
        stored.setdefault(kept.id, kept)
    return list(stored.values())


def required_items(value: Json, body: bytes, runtime: Runtime, *, member: str, at_most: int) -> Sequence[StoredItem]:
    """The same where there have to be some."""
    if value is None:
        reading.missing(member)
    items = stored_items(value, body, runtime, member=member, at_most=at_most)
    if not items:
        empty_array(member)
    return items


def _refuse_reference(item: Item, path: str) -> None:
    if isinstance(item, OpaqueItem) and item.wire_type == "item_reference":
        raise InvalidParameter(
            "Invalid value: 'item_reference'. What is kept holds items themselves; send the item it refers to.",
            param=f"{path}.type",
        )
