"""How large an answer may become, whatever it is made of."""

import msgspec
import pytest

from trunkline.engine.answer_size import EVENT_CHARACTERS, MAX_ANSWER_CHARACTERS, AnswerSize
from trunkline.model import events as ev
from trunkline.model.errors import BackendError
from trunkline.model.items import FunctionCallOutput, TextPart

MEGABYTE = "x" * 2**20
JSON = msgspec.Raw(msgspec.json.encode(MEGABYTE))
LARGE: list[ev.Event] = [
    ev.TextDelta(0, MEGABYTE),
    ev.ReasoningDelta(0, MEGABYTE),
    ev.ArgumentsDelta(0, MEGABYTE),
    ev.Extension(name="x", payload=JSON),
    ev.AnnotationAdded(0, JSON),
    ev.TokensDelta(0, token_ids=(1,) * (2**20 // 4)),
    ev.ItemDone(index=0, item=FunctionCallOutput(call_id="call_1", content=(TextPart(MEGABYTE),))),
]


@pytest.mark.parametrize("event", LARGE, ids=lambda event: type(event).__name__)
def test_whatever_is_large_is_counted(event: ev.Event) -> None:
    size = AnswerSize()
    for _ in range(MAX_ANSWER_CHARACTERS // (2**20 + 100)):
        size.add([event])
    with pytest.raises(BackendError, match="longer than"):
        size.add([event, event])


def test_nothing_goes_on_for_ever_by_being_empty() -> None:
    size = AnswerSize()
    batch: list[ev.Event] = [ev.ItemDone(index=0)] * 10_000
    for _ in range(MAX_ANSWER_CHARACTERS // EVENT_CHARACTERS // len(batch)):
        size.add(batch)
    with pytest.raises(BackendError):
        size.add(batch)
