"""How large an answer may become where it is held in memory: a whole one, and one whose last event holds all of it.

Only what a backend can make without end is counted, in characters of text and bytes of everything else.
"""

import msgspec

from trunkline.model import events as ev
from trunkline.model.errors import BackendError
from trunkline.ports.backend import EventBatch

MAX_ANSWER_CHARACTERS = 16 * 1024 * 1024
EVENT_CHARACTERS = 32
"""What an event counts for beside its text: an answer of nothing but empty items must end too."""


class AnswerSize:
    """Counts one answer."""

    __slots__ = ("_size",)

    def __init__(self) -> None:
        self._size = 0

    def add(self, batch: EventBatch) -> None:
        """Raises BackendError once it is too much. Asked before anybody is told what is in the batch, as that may be the end."""
        for event in batch:
            self._size += EVENT_CHARACTERS + (len(event.text) if type(event) is ev.TextDelta else _size_of(event))
        if self._size > MAX_ANSWER_CHARACTERS:
            raise BackendError(
                f"the answer is longer than {MAX_ANSWER_CHARACTERS} characters, which is as much as is held in memory",
                code="answer_too_long",
            )


def _size_of(event: ev.Event) -> int:
    match event:
        case ev.TextDelta() | ev.ReasoningDelta() | ev.SummaryDelta() | ev.RefusalDelta() | ev.ArgumentsDelta():
            return len(event.text)
        case ev.ItemDone(item=item) if item is not None:
            return len(msgspec.json.encode(item))
        case ev.Extension():
            return len(bytes(event.payload))
        case ev.AnnotationAdded():
            return len(bytes(event.annotation))
        case ev.TokensDelta():
            return 4 * len(event.token_ids) + 64 * sum(1 + len(one.top) for one in event.logprobs)
        case _:
            return 0
