"""What an agent returns after it has streamed: whatever was said how, nothing is lost and nothing is said twice."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.backends.callable.answer import Answer
from trunkline.backends.callable.channel import Channel
from trunkline.backends.callable.doorbell import Doorbell
from trunkline.backends.callable.voice import Voice
from trunkline.testing.answers import PinnedClock, pinned_context

WORDS = st.text(alphabet="ab .\n", min_size=1, max_size=4)
OTHER_WORDS = st.text(alphabet="xy", min_size=1, max_size=4)


async def voice() -> Voice:
    context = pinned_context()
    return Voice(
        channel=Channel(clock=PinnedClock(), doorbell=Doorbell(asyncio.get_running_loop())),
        answer=Answer(context),
        name="bot",
        request_id="req_1",
    )


def missing(pieces: list[str | None], final: str) -> str:
    async def run() -> str:
        speaking = await voice()
        for piece in pieces:
            await speaking.text(piece)
        return speaking.missing(final)

    return asyncio.run(run())


@settings(max_examples=40)
@given(pieces=st.lists(WORDS, max_size=6), final=st.text(alphabet="xy .\n", max_size=6))
def test_what_was_not_streamed_is_said_whole(pieces: list[str], final: str) -> None:
    if final.strip(" .\n"):
        assert missing([*pieces], final).endswith(final)


@settings(max_examples=40)
@given(pieces=st.lists(WORDS | st.none(), min_size=1, max_size=6))
def test_what_was_streamed_is_not_said_again(pieces: list[str | None]) -> None:
    whole = "".join(piece for piece in pieces if piece)
    if whole.strip():
        assert missing(pieces, whole) == ""


@settings(max_examples=40)
@given(before=st.lists(OTHER_WORDS, max_size=3), pieces=st.lists(WORDS, min_size=1, max_size=4), rest=WORDS)
def test_of_the_last_segment_only_the_rest_is_said(before: list[str], pieces: list[str], rest: str) -> None:
    segment = "".join(pieces)
    if segment.strip() and rest.strip():
        assert segment.lstrip() + missing([*before, None, *pieces], segment + rest) == (segment + rest).lstrip()
