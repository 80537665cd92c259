"""The operations of the ollama_chat dialect that have golden cases."""

from collections.abc import Callable

import msgspec

from tests.wire.golden import (
    Case,
    Operation,
    common,
    encode_request,
    events_of,
    pretty,
    write_error,
)
from trunkline.config.profiles import Profile
from trunkline.dialects.ollama_chat import (
    OllamaBackend,
    OllamaChatSurface,
    OllamaGenerateSurface,
    asks_to_load,
    listings,
)
from trunkline.dialects.openai_chat import ChatSurface
from trunkline.model.errors import RequestError, TrunklineError
from trunkline.model.request import Request
from trunkline.model.turn import fold

BACKEND = OllamaBackend()


def surface(case: Case) -> OllamaChatSurface | OllamaGenerateSurface:
    """The surface of the case's folder, in an exchange that has lasted `elapsed_ns` so far."""
    elapsed_ns = int(case.settings.get("elapsed_ns", "0"))
    kind = OllamaGenerateSurface if "generate" in case.operation else OllamaChatSurface
    return kind(elapsed_ns=lambda: elapsed_ns)


def asked(case: Case) -> Request:
    return Request(model=case.settings.get("model"), items=(), stream=True)


def decode_request(case: Case) -> str:
    codec = surface(case)
    try:
        request = codec.decode_request(case.data)
    except RequestError as error:
        return f"raises {type(error).__name__} {error.status} {error.param}\n{pretty(codec.encode_error(error.info()))}"
    loads = asks_to_load(request)
    return pretty(msgspec.json.encode(request)) + (f"asks to {loads}\n" if loads else "")


def encode_turn(case: Case) -> str:
    try:
        return pretty(surface(case).encode_turn(fold(events_of(case)), asked(case)))
    except TrunklineError as error:
        return write_error(error)


def ask(case: Case) -> str:
    """A client of this dialect (`client: ollama_chat`), or of OpenAI's."""
    codec = surface(case) if case.settings.get("client") == "ollama_chat" else ChatSurface(Profile())
    return encode_request(BACKEND, codec, case)


def read_models(case: Case) -> str:
    read = listings.read_ps if case.settings["path"] == "/api/ps" else listings.read_tags
    try:
        cards = read(case.data)
    except TrunklineError as error:
        return write_error(error)
    return "".join(f"{msgspec.json.encode(card).decode()}\n" for card in cards)


WRITERS: dict[str, Callable[[list[listings.ModelCard]], bytes]] = {
    "/api/tags": listings.write_tags,
    "/api/ps": listings.write_ps,
    "/api/show": lambda cards: listings.write_show(cards[0]),
}


def write_models(case: Case) -> str:
    cards = [msgspec.json.decode(line, type=listings.ModelCard) for line in case.given.splitlines()]
    return pretty(WRITERS[case.settings["path"]](cards))


def decode_embed(case: Case) -> str:
    try:
        return pretty(msgspec.json.encode(listings.decode_embed(case.data)))
    except RequestError as error:
        return f"raises {type(error).__name__} {error.status} {error.param}\n"


COMMON = common(BACKEND, surface, asked, turn_id="chatcmpl-fallback")
OPERATIONS: dict[str, Operation] = {
    **COMMON,
    "decode_embed": decode_embed,
    "decode_generate_request": decode_request,
    "decode_request": decode_request,
    "encode_generate_stream": COMMON["encode_stream"],
    "encode_generate_turn": encode_turn,
    "encode_request": ask,
    "encode_turn": encode_turn,
    "read_models": read_models,
    "write_models": write_models,
}
