"""`truncation: "auto"`: the oldest whole turns go until the context fits (decision 40).

A turn is what a user said (messages that follow each other together) and everything up to the next time a user speaks. A call and
its output never part: turns between them go together. System and developer messages stay, wherever they stand, and so does the
newest turn: where that alone does not fit, nobody can answer, and the backend's refusal is the client's.

A backend that counts is asked first, and gives up no turn that fits. Any other says itself that a request is too long; each time,
half of the turns that are left go: a long conversation fits after a few refusals, which cost an upstream little.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter

import msgspec

from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, OpaqueItem
from trunkline.model.request import Request

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
ROOM_TO_ANSWER = 8
"""What part of the context an answer gets that asked for no length: an eighth."""

Count = Callable[[Request], Awaitable[int]]


class _OfCall(msgspec.Struct):
    call_id: object = None


_READ = msgspec.json.Decoder(_OfCall)


class Truncation:
    """One request, and ever fewer of its older turns."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._older = older_turns(request.items)
        self.dropped = 0

    @property
    def turns(self) -> int:
        """How many there were, with the newest."""
        return len(self._older) + 1

    def halve(self) -> Request | None:
        """The request without half of the older turns it still had; None when it had none."""
        left = len(self._older) - self.dropped
        if not left:
            return None
        self.dropped += (left + 1) // 2
        return self._without(self.dropped)

    async def fit(self, count: Count, *, context_tokens: int) -> Request:
        """The request with as many turns as fit, or with the newest alone.

        "trimming can begin earlier because the API subtracts the model's maximum output allowance" (OpenAI): what fills the context
        to its brim could not be answered.
        """
        asked = self._request.max_output_tokens or context_tokens // ROOM_TO_ANSWER
        room = context_tokens - min(asked, context_tokens // 2)
        if not self._older or await count(self._request) <= room:
            return self._request
        fewest, most = 1, len(self._older)
        while fewest < most:
            middle = (fewest + most) // 2
            if await count(self._without(middle)) <= room:
                most = middle
            else:
                fewest = middle + 1
        self.dropped = fewest
        return self._without(fewest)

    def _without(self, count: int) -> Request:
        gone = {position for turn in self._older[:count] for position in turn}
        kept = [position for position in range(len(self._request.items)) if position not in gone]
        places = self._request.places
        return msgspec.structs.replace(
            self._request,
            items=tuple([self._request.items[position] for position in kept]),
            places=tuple([places[position] for position in kept])
            if len(places) == len(self._request.items)
            else places,
        )


def truncation_for(request: Request, *, lightens: bool) -> Truncation | None:
    """How the request is made shorter; None where it must not be. `lightens`: a profile does so unasked."""
    wanted = request.truncation or ("auto" if lightens else "disabled")
    return Truncation(request) if wanted == "auto" else None


def older_turns(items: Sequence[Item]) -> list[list[int]]:
    """Positions of the items of each turn that may go, oldest first: all but the newest."""
    turns: list[list[int]] = []
    made_at: dict[str, int] = {}  # call_id -> position
    after_user = False
    for position, item in enumerate(items):
        user = isinstance(item, Message) and item.role == "user"
        if isinstance(item, Message) and item.role in ("system", "developer"):
            continue
        if not turns or (user and not after_user):
            turns.append([])
        after_user = user
        turns[-1].append(position)
        call_id = _call_id(item)
        if call_id is None:
            continue
        first = bisect_right(turns, made_at.setdefault(call_id, position), key=itemgetter(0)) - 1
        for later in turns[first + 1 :]:
            turns[first] += later
        del turns[first + 1 :]
    return turns[:-1]


def _call_id(item: Item) -> str | None:
    """What calls and their outputs have in common, those of hosted tools included."""
    if isinstance(item, FunctionCall | FunctionCallOutput):
        return item.call_id
    if isinstance(item, OpaqueItem):
        call_id = _READ.decode(item.payload).call_id
        return call_id if isinstance(call_id, str) else None
    return None
