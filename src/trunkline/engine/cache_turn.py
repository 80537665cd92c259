"""What of an answer the cache may keep, and the same answer given to another call.

Given again, it is under the call's own id and time; items and tool calls get new ids too, so that two answers in one conversation
never share any. Its usage says that the whole prompt was read from a cache (decision 45).
"""

from collections.abc import Iterable, Sequence

import msgspec

from trunkline.engine.call import Call
from trunkline.engine.turn_record import DELTAS, Recorder, read
from trunkline.model import events as ev
from trunkline.model.ids import Entropy, new_id
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item
from trunkline.model.usage import Usage
from trunkline.telemetry.outcome import NOTED, Outcome


def kept_data(recorder: Recorder) -> bytes | None:
    """None for an answer that must not be given again."""
    events = recorder.events()
    return msgspec.json.encode(events) if _may_be_kept(events) else None


def texts_of(data: bytes) -> str:
    """What the answer says."""
    return "\n".join([event.text for event in read(data) if isinstance(event, DELTAS)])


def _may_be_kept(events: Sequence[ev.Event]) -> bool:
    """Whether it came to an end of its own, said something, and holds nothing that belongs to its one turn.

    That is: an approval somebody gave, a hosted tool that has not come back, an item we cannot name and thus not rename,
    encrypted reasoning, which the upstream ties to the item's id.
    """
    if not events or (not isinstance(events[-1], ev.TurnCompleted) and events[-1] != _CUT_BY_LENGTH):
        return False
    said, running = False, set[str]()
    for event in events:
        said = said or isinstance(event, DELTAS)
        match event:
            case ev.ApprovalRequested() | ev.ApprovalResolved() | ev.ItemStarted(kind="opaque"):
                return False
            case ev.ChoiceDone(finish_reason="error" | "content_filter"):
                return False
            case ev.ItemDone(encrypted_content=str()):
                return False
            case ev.ItemStarted(kind="function_call", hosted=True, call_id=call_id):
                running.add(call_id or "")
            case ev.ItemDone(item=FunctionCallOutput(call_id=call_id)):
                running.discard(call_id)
            case ev.ToolProgress(status="running", call_id=call_id):
                running.add(call_id)
            case ev.ToolProgress(status="completed", call_id=call_id):
                running.discard(call_id)
            case _:
                pass
    return said and not running


_CUT_BY_LENGTH = ev.TurnIncomplete("max_output_tokens")


class Replay:
    """An answer's events as another call's own; noted in its outcome as they go."""

    def __init__(self, call: Call, *, entropy: Entropy) -> None:
        self._call = call
        self._entropy = entropy
        self._call_ids: dict[str, str] = {}

    def again(self, events: Iterable[ev.Event]) -> list[ev.Event]:
        outcome, given = self._call.outcome, [self._renamed(event) for event in events]
        _note(given, outcome)
        return given

    def _renamed(self, event: ev.Event) -> ev.Event:
        match event:
            case ev.TurnStarted():
                return ev.TurnStarted(self._call.turn_id, event.model, self._call.created_at)
            case ev.ItemStarted(kind=kind) if kind != "opaque":
                call_id = None if event.call_id is None else self._call_id(event.call_id)
                return msgspec.structs.replace(event, item_id=None, call_id=call_id)
            case ev.ItemDone(item=item) if item is not None:
                return msgspec.structs.replace(event, item=self._renamed_item(item))
            case ev.ToolProgress():
                return msgspec.structs.replace(event, call_id=self._call_id(event.call_id))
            case ev.UsageReported():
                return ev.UsageReported(as_read_from_cache(event.usage))
            case _:
                return event

    def _renamed_item(self, item: Item) -> Item:
        if isinstance(item, FunctionCall | FunctionCallOutput):
            return msgspec.structs.replace(item, id=None, call_id=self._call_id(item.call_id))
        return item

    def _call_id(self, call_id: str) -> str:
        if call_id not in self._call_ids:
            self._call_ids[call_id] = new_id("call_", self._entropy)
        return self._call_ids[call_id]


def as_read_from_cache(usage: Usage) -> Usage:
    """The tokens of the answer, of which nobody computed the prompt again."""
    return msgspec.structs.replace(usage, cached_tokens=usage.input_tokens, cache_write_tokens=None)


def _note(events: Iterable[ev.Event], outcome: Outcome) -> None:
    for event in events:
        if isinstance(event, NOTED):
            outcome.note(event)
