"""Translation alone: CPU time to decode an upstream's event, check it and encode it for the client, without a socket.

    python -m bench.translate            prints the microseconds per event
    python -m bench.translate compare    beside the relay's search and the way to Responses, for events alone and eight in a read

Streams between equal dialects are relayed and never decoded, so the cost of translating shows in no relayed event; it
is what a stream between two dialects pays instead of the relay's search. Here one event comes with each read, the
dearest case. The fastest of several passes counts: whatever disturbs a pass can only make it slower.
"""

import sys
import time
from collections.abc import Callable, Sequence

from trunkline.backends.tee import StreamTee
from trunkline.config.profiles import profile_named
from trunkline.dialects.codec import SurfaceCodec
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.model.events import TurnStarted
from trunkline.model.grammar import Grammar
from trunkline.ports.runtime import SystemEntropy

EVENTS = 2000
PASSES = 25
REQUEST = b'{"model":"mock","messages":[{"role":"user","content":"Hello"}],"stream":true}'
RESPONSES_REQUEST = b'{"model":"mock","input":"Hello","stream":true}'
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


def joined(reads: Sequence[bytes], *, size: int) -> list[bytes]:
    """The same bytes, with so many events in each read."""
    return [b"".join(reads[start : start + size]) for start in range(0, len(reads), size)]


def translate(reads: Sequence[bytes], *, surface: SurfaceCodec | None = None, request: bytes = REQUEST) -> bytes:
    """What the client gets for these reads, through decoder, grammar and encoder."""
    surface = surface or ChatSurface(profile_named("openai"))
    decoder = ChatBackend().decoder(TurnStarted("chatcmpl-1", "mock", 1790000000), streamed=True)
    encoder = surface.encoder(surface.decode_request(request))
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


def relay(reads: Sequence[bytes]) -> bytes:
    """What a client of the same dialect gets, through the relay's search."""
    request = ChatSurface(profile_named("openai")).decode_request(REQUEST)
    tee = StreamTee(request, entropy=SystemEntropy())
    return b"".join([tee.feed(read).data for read in reads])


def to_responses(reads: Sequence[bytes]) -> bytes:
    """What a client of the Responses API gets."""
    surface = ResponsesSurface(profile_named("openai"), now=lambda: 0.0)
    return translate(reads, surface=surface, request=RESPONSES_REQUEST)


def compare(events: int = EVENTS, *, passes: int = PASSES) -> str:
    """A table of the fastest passes, which take turns."""
    ways: dict[str, Callable[[Sequence[bytes]], bytes]] = {
        "relay's search": relay,
        "chat → chat": translate,
        "chat → Responses": to_responses,
    }
    rows = [f"| an event that comes | {' | '.join(ways)} |", f"| --- |{' ---: |' * len(ways)}"]
    for name, size in (("alone in its read", 1), ("with 7 others", 8)):
        reads = joined(stream(events), size=size)
        took = dict.fromkeys(ways, float("inf"))
        for _ in range(passes):
            for way, follow in ways.items():
                before = time.process_time()
                follow(reads)
                took[way] = min(took[way], time.process_time() - before)
        rows.append(f"| {name} | {' | '.join(f'{value / events * 1e6:.1f} µs' for value in took.values())} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{compare()}\n" if sys.argv[1:] == ["compare"] else f"{us_per_event():.3f}\n")
