"""Golden cases: one text file each, in sections between lines of dashes.

    What this shows, in a line or two, for the person who reads the case.
    name: value                     settings of the case, if it has any
    ----
    what goes in
    ----
    what must come out

The folder names the operation: cases/<dialect>/<operation>/<case>.txt. Events are written one a line as the JSON of
their tagged Structs. A line that begins with `raises` is the exception an operation ends with.

`TRUNKLINE_REWRITE_CASES=1` writes what the code gives into the files, to be reviewed as a diff; not in CI.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from trunkline.dialects.codec import BackendCodec, SurfaceCodec, encode_all
from trunkline.model.errors import ErrorInfo, RequestError, TrunklineError
from trunkline.model.events import Event, TurnStarted
from trunkline.model.grammar import Grammar
from trunkline.model.items import Item
from trunkline.model.request import Request

ROOT = Path(__file__).parent / "cases"
REWRITE = os.environ.get("TRUNKLINE_REWRITE_CASES") == "1"
_RULE = re.compile(r"^-{4,}\n", re.MULTILINE)
_SETTING = re.compile(r"^([a-z_]+): (.*)$")
_EVENT = msgspec.json.Decoder(Event)


class Case(msgspec.Struct, frozen=True):
    """One case as read. `given` is text; `data` is what it stands for in bytes."""

    path: Path
    head: str
    settings: dict[str, str]
    given: str
    expected: str

    @property
    def operation(self) -> str:
        return self.path.parent.name

    @property
    def dialect(self) -> str:
        return self.path.parent.parent.name

    @property
    def data(self) -> bytes:
        """The input's bytes, with the line ends and escapes the settings ask for."""
        text = self.given.removesuffix("\n") if self.settings.get("final_newline") == "no" else self.given
        data = text.encode()
        if self.settings.get("escapes") == "python":
            data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
        ends = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}[self.settings.get("line_ends", "lf")]
        return data.replace(b"\n", ends)

    def flag(self, name: str) -> bool:
        return self.settings.get(name) == "true"

    def rewrite(self, result: str) -> None:
        self.path.write_text(f"{self.head}----\n{self.given}----\n{result}", encoding="utf-8")


Operation = Callable[[Case], str]
"""What is done with what goes in."""


def read_case(path: Path) -> Case:
    sections = _RULE.split(path.read_text(encoding="utf-8"))
    assert len(sections) == 3, f"{path}: expected three sections between lines of dashes, found {len(sections)}"
    head, given, expected = sections
    settings = {match[1]: match[2] for line in head.splitlines() if (match := _SETTING.match(line))}
    return Case(path, head, settings, given, expected)


def find_cases(dialect: str, *operations: str) -> Iterator[Case]:
    """Those of the operations, or of all there are."""
    for operation in operations or ["*"]:
        for path in sorted((ROOT / dialect).glob(f"{operation}/*.txt")):
            yield read_case(path)


def check(case: Case, result: str) -> None:
    """The result equals what the case expects; or, when rewriting, becomes it."""
    if REWRITE:
        assert "CI" not in os.environ, "cases are reviewed by people, never rewritten by CI"
        case.rewrite(result)
        return
    assert result == case.expected, f"{case.path.name}: {case.head.strip()}"


def write_events(events: list[Event]) -> str:
    return "".join(f"{msgspec.json.encode(event).decode()}\n" for event in events)


def events_of(case: Case) -> list[Event]:
    """The events of the input, which keep the grammar."""
    events = [_EVENT.decode(line) for line in case.given.splitlines() if line]
    _check_grammar(events)
    return events


def write_error(error: TrunklineError) -> str:
    return f"raises {type(error).__name__} {msgspec.json.encode(error.info()).decode()}\n"


def pretty(data: bytes) -> str:
    return f"{msgspec.json.format(data, indent=2).decode()}\n"


def decode_request(codec: SurfaceCodec, case: Case) -> str:
    try:
        request = codec.decode_request(case.data)
    except RequestError as error:
        return f"raises {type(error).__name__} {error.status}\n{pretty(codec.encode_error(error.info()))}"
    return pretty(msgspec.json.encode(request))


def encode_request(backend: BackendCodec, codec: SurfaceCodec, case: Case) -> str:
    """What a client asks as the backend is asked."""
    request = codec.decode_request(case.data)
    try:
        return pretty(backend.encode_request(request, model=case.settings["backend_model"]))
    except TrunklineError as error:
        return write_error(error)


def forward(backend: BackendCodec, codec: SurfaceCodec, case: Case, *, history: Sequence[Item] = ()) -> str:
    """The client's own body as the backend gets it."""
    body = case.data.removesuffix(b"\n")
    asked = codec.decode_request(body)
    request = msgspec.structs.replace(asked, items=(*history, *asked.items))
    model = case.settings["backend_model"]
    return backend.forward_body(body, request, model=model, own_items=asked.items).decode() + "\n"


def common(
    backend: BackendCodec, surface: Callable[[Case], SurfaceCodec], asked: Callable[[Case], Request], *, turn_id: str
) -> dict[str, Operation]:
    """The operations that all dialects have and that look alike in them. `turn_id`: of an answer that brings no id."""
    fallback = TurnStarted(turn_id, "fallback-model", 1700000000)

    def decode_error(case: Case) -> str:
        return write_error(backend.decode_error(int(case.settings["status"]), case.data))

    def encode_error(case: Case) -> str:
        return surface(case).encode_error(msgspec.json.decode(case.given, type=ErrorInfo)).decode() + "\n"

    def encode_stream(case: Case) -> str:
        return encode_all(surface(case).encoder(asked(case)), events_of(case)).decode()

    return {
        "decode_body": partial(decode_answer, backend, fallback),
        "decode_error": decode_error,
        "decode_request": lambda case: decode_request(surface(case), case),
        "decode_stream": partial(decode_answer, backend, fallback),
        "encode_error": encode_error,
        "encode_request": lambda case: encode_request(backend, surface(case), case),
        "encode_stream": encode_stream,
        "forward_body": lambda case: forward(backend, surface(case), case),
    }


def decode_answer(backend: BackendCodec, fallback: TurnStarted, case: Case) -> str:
    """The events of the input, the same in every split, and the error it ends with."""
    whole = _decode(backend, case, fallback, max(1, len(case.data)))
    for size in (1, 2, 3, 7):
        assert _decode(backend, case, fallback, size) == whole, f"fed {size} bytes at a time"
    return whole


def _decode(backend: BackendCodec, case: Case, fallback: TurnStarted, size: int) -> str:
    decoder = backend.decoder(fallback, streamed=case.operation == "decode_stream")
    data = case.data
    events: list[Event] = []
    failure = ""
    try:
        for start in range(0, len(data), size):
            events.extend(decoder.feed(data[start : start + size]))
            if decoder.ended:
                break
        events.extend(decoder.close())
    except TrunklineError as error:
        failure = write_error(error)
    grammar = _check_grammar(events)
    assert grammar.ended != bool(failure), "an answer ends with exactly one of a terminal event and an exception"
    return write_events(events) + failure


def _check_grammar(events: Iterable[Event]) -> Grammar:
    grammar = Grammar()
    for event in events:
        grammar.feed(event)
    return grammar
