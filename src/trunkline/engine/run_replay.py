"""What the log of a run says of its work, read back after the worker was lost; and how a further attempt follows it in one log.

Each attempt begins with `response.in_progress`. The answer, and so the object of the last event, is what the last attempt said.
What an earlier one had said stays in the log: its open items are closed as `incomplete`, and a `response.queued` with an empty
output says that the answer begins anew. Numbers go on over all attempts, those of the items too, so no reader sees an event
contradicted and no item id or output index stands for two things.
"""

import msgspec

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.emitter import ResponseEmitter
from trunkline.dialects.openai_responses.read_log import LogReader
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.request import Request
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import LoggedEvent, RunStore, Store, StoredRun

PAGE = 512
_HOW_IT_WENT = ("status", "error", "completed_at", "output", "output_text")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Replayed(msgspec.Struct, frozen=True):
    """An emitter that has said what the last attempt said, and how many attempts there were."""

    emitter: ResponseEmitter
    attempts: int


async def replay(
    store: RunStore, codec: ResponsesSurface, stored: StoredRun, request: Request, started: ev.TurnStarted
) -> Replayed:
    """Reads the run's log."""
    emitter = codec.emitter(request)
    reader = LogReader(codec, started)
    attempts = outputs = 0
    after = -1
    while events := await store.read_events(stored.tenant, stored.id, after=after, limit=PAGE):
        after = events[-1].sequence_number
        for logged in events:
            if logged.type == "response.in_progress":
                attempts += 1
                reader = LogReader(codec, started)
                emitter = codec.emitter(request)
                emitter.queued(started)
                emitter.feed_events(started)
                emitter.next_output = outputs
            outputs += logged.type == "response.output_item.added"
            for event in reader.feed((logged.type, logged.data)):
                if not isinstance(event, (ev.TurnStarted, *ev.TERMINALS)):
                    emitter.feed_events(event)
    emitter.sequence_number = stored.next_sequence
    return Replayed(emitter, attempts)


async def give_up(store: Store, codec: ResponsesSurface, clock: Clock, stored: StoredRun) -> None:
    """Ends a run whose request cannot be read any more, from what is stored of it: nobody shall wait for it."""
    begun = await store.load_response(stored.tenant, stored.id)
    if begun is None:
        return
    request, started = Request(model=begun.model, items=()), ev.TurnStarted(stored.id, begun.model, stored.created_at)
    said = await replay(store, codec, stored, request, started)
    emitter = said.emitter
    if not said.attempts:
        emitter.queued(started)
        emitter.sequence_number = stored.next_sequence
    error = ErrorInfo(message="this run could not be taken up after a restart", type="server_error")
    *closing, (kind, _) = emitter.feed_events(ev.TurnFailed(error))
    assert emitter.response is not None
    ended = _MEMBERS.decode(emitter.response)
    whole = msgspec.json.encode({**_MEMBERS.decode(begun.object), **{name: ended[name] for name in _HOW_IT_WENT}})
    event = {"type": kind, "sequence_number": emitter.sequence_number - 1, "response": msgspec.Raw(whole)}
    emitted = [*closing, (kind, msgspec.json.encode(event))]
    events = [LoggedEvent(number, *one, clock.now_s()) for number, one in enumerate(emitted, stored.next_sequence)]
    final = msgspec.structs.replace(begun, object=whole, status="failed")
    await store.append_events(stored.tenant, stored.id, events, final=final)


def shifted(event: ev.Event, by: int) -> ev.Event:
    """The event of a further attempt: its item stands behind those of the earlier ones, and so does an id made of its place."""
    match event:
        case ev.ItemStarted(index=index, item_id=str(item_id)) if item_id.endswith(f"_{index}"):
            head = item_id.removesuffix(f"_{index}")
            return msgspec.structs.replace(event, index=index + by, item_id=f"{head}_{index + by}")
        case ev.Extension(index=None):
            return event
        case (
            ev.ItemStarted(index=int(index))
            | ev.TextDelta(index=int(index))
            | ev.ReasoningDelta(index=int(index))
            | ev.SummaryDelta(index=int(index))
            | ev.RefusalDelta(index=int(index))
            | ev.ArgumentsDelta(index=int(index))
            | ev.TokensDelta(index=int(index))
            | ev.AnnotationAdded(index=int(index))
            | ev.ItemDone(index=int(index))
            | ev.Extension(index=int(index))
        ):
            return msgspec.structs.replace(event, index=index + by)
        case _:
            return event
