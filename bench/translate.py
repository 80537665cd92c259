"""Translation alone: CPU time to decode an upstream's event, check it and encode it for the client, without a socket.

    python -m bench.translate          prints the microseconds per event

Streams between equal dialects are relayed and never decoded, so the cost of translating shows in no relayed event; it
is what a stream between two dialects pays instead of the relay's search. Here one event comes with each read, the
dearest case. The fastest of several passes counts: whatever disturbs a pass can only make it slower.
"""

import sys
import time
from collections.abc import Callable, Sequence

from trunkline.config.profiles import profile_named
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.model.events import TurnStarted
from trunkline.model.grammar import Grammar

EVENTS = 2000
PASSES = 25
REQUEST = b'{"model":"mock","messages":[{"role":"user","content":"Hello"}],"stream":true}'
CHUNK = (
    'data: {"id":"chatcmpl-9f2c1a7e5b3d4c6f8a0b1c2d3e4f5a6b","object":"chat.completion.chunk","created":1790000000,'
    '"model":"mock","choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}\n\n'
)


def stream(events: int) -> list[bytes]:
    """The reads of one upstream answer: a role, that many words, the end."""
    words = [CHUNK % (f'{{"content":" tok@{number:016d}@"}}', "null") for number in range(events)]
    frames = [
        CHUNK % ('{"role":"assistant","content":""}', "null"),
        *words,
        CHUNK % ("{}", '"stop"'),
        "data: [DONE]\n\n",
    ]
    return [frame.encode() for frame in frames]


def translate(reads: Sequence[bytes]) -> bytes:
    """What the client gets for these reads, through decoder, grammar and encoder."""
    surface = ChatSurface(profile_named("openai"))
    decoder = ChatBackend().decoder(TurnStarted("chatcmpl-1", "mock", 1790000000), streamed=True)
    encoder = surface.encoder(surface.decode_request(REQUEST))
    grammar = Grammar()
    written = []
    for read in reads:
        for event in decoder.feed(read):
            grammar.feed(event)
            written.append(encoder.feed(event))
    return b"".join(written)


def us_per_event(
    events: int = EVENTS, *, passes: int = PASSES, clock: Callable[[], float] = time.process_time
) -> float:
    reads = stream(events)
    took = []
    for _ in range(passes):
        before = clock()
        translate(reads)
        took.append(clock() - before)
    return min(took) / events * 1e6


if __name__ == "__main__":
    sys.stdout.write(f"{us_per_event():.3f}\n")
