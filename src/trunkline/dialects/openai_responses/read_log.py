"""A response's own stream read back, event by event, from where it was kept.

What a model server says is read one item after the other, which is how the model of an answer has them. In a stream of ours a
tool's item stays open while others come and go, so the tools that a backend ran are read apart: each is a call and its output
again.

Items are numbered by their place in the output, with room behind each for the output of a run. Whoever emits these events once
more says the same items in the same order.
"""

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_responses.backend import ResponsesBackend
from trunkline.dialects.openai_responses.emitter import Emitted
from trunkline.dialects.openai_responses.mcp_calls import MCP_CALL, opening, read_output
from trunkline.dialects.openai_responses.surface import ResponsesSurface
from trunkline.dialects.reading import Json, Object
from trunkline.model import events as ev

_NAMED = opening("", name=None, call_id=None).keys()
_ADDED, _DONE = "response.output_item.added", "response.output_item.done"


class LogReader:
    """Feeds on what was emitted, gives the events that it was made of. TurnStarted and the terminal event are the decoder's."""

    def __init__(self, codec: ResponsesSurface, started: ev.TurnStarted) -> None:
        self._codec = codec
        self._decoder = ResponsesBackend().decoder(started, streamed=True)
        self._places: list[int] = []  # of the items that the decoder reads
        self._runs: set[int] = set()  # places of the runs that are open

    def feed(self, emitted: Emitted) -> list[ev.Event]:
        kind, data = emitted
        if kind in (_ADDED, _DONE) or kind.startswith("response.mcp_call"):
            said = reading.mapping(msgspec.json.decode(data), kind)
            place = reading.integer(said.get("output_index"), kind)
            if kind == _ADDED:
                item = reading.mapping(said.get("item"), kind)
                if item.get("type") == MCP_CALL and isinstance(item.get("call_id"), str):
                    self._runs.add(place)
                    return [_begun(item, place)]
                self._places.append(place)
            elif place in self._runs:
                return self._of_run(kind, said, place)
        return [self._placed(event) for event in self._decoder.feed(self._codec.frame(emitted))]

    def _of_run(self, kind: str, said: Object, place: int) -> list[ev.Event]:
        if kind == "response.mcp_call_arguments.delta":
            return [ev.ArgumentsDelta(2 * place, reading.text_field(said, "delta", kind))]
        if kind == "response.mcp_call_arguments.done":
            return [ev.ItemDone(index=2 * place)]
        if kind != _DONE:
            return []
        self._runs.discard(place)
        return _ended(reading.mapping(said.get("item"), kind), place)

    def _placed(self, event: ev.Event) -> ev.Event:
        index: int | None = getattr(event, "index", None)
        return event if index is None else msgspec.structs.replace(event, index=2 * self._places[index])


def _begun(item: Object, place: int) -> ev.ItemStarted:
    return ev.ItemStarted(
        index=2 * place,
        kind="function_call",
        item_id=reading.text_field(item, "id", MCP_CALL),
        call_id=reading.text_field(item, "call_id", MCP_CALL),
        name=reading.text_field(item, "name", MCP_CALL),
        hosted=True,
    )


def _ended(item: Object, place: int) -> list[ev.Event]:
    """The output of a run; nothing for one that the end of its attempt has cut."""
    gave: tuple[Json, Json] = item.get("output"), item.get("error")
    if gave == (None, None):
        return []
    output = msgspec.structs.replace(read_output(item, MCP_CALL), hosted=True, failed=gave[1] is not None)
    index = 2 * place + 1
    return [
        ev.ItemStarted(index=index, kind="function_call_output", call_id=output.call_id, name=output.name, hosted=True),
        *[
            ev.Extension(name=key, payload=reading.raw(value), index=index)
            for key, value in item.items()
            if key not in _NAMED and value is not None
        ],
        ev.ItemDone(index=index, item=output),
    ]
