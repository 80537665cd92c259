"""What is known of servers that speak the same dialect and still differ, as data: one entry for each server.

Which one answers is said by `vendor` in the configuration, or else seen in its own list of models: who it says owns them, the
`Server` header, or the address. An entry holds only what somebody reads: how it is known which models are in memory, and which
of the two names for the length of an answer it knows. Of a server that nothing is known of, nothing is assumed.

`refusal` reads sentences. Servers say in words alone that a model has no tools or sees no images, some with a 500; here they get a
code and a status, so that everybody else has those to go by. Sentences are matched whatever the server: proxies repeat them.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from trunkline.model.errors import BackendError, BackendRejected
from trunkline.ports.backend import ModelInfo


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of server.

    Attributes:
        owners: what its list of models gives as `owned_by`.
        server: how its `Server` header begins.
        host: its address, where it is at home at one. Whose list says "openai" is told by many who are not.
        running_path: where it tells which models are in memory, from its root, in Ollama's words.
        lists_loaded: whether what it lists is in memory, as long as the entry itself does not say otherwise.
        sleeping_path: where it tells whether it has put its model to sleep to free the memory, from its root.
        length_name: the only name it knows for `max_tokens` and `max_completion_tokens`; the other it ignores or refuses.
    """

    owners: frozenset[str] = frozenset()
    server: str | None = None
    host: str | None = None
    running_path: str | None = None
    lists_loaded: bool = False
    sleeping_path: str | None = None
    length_name: str | None = None


UNKNOWN = Vendor()
VENDORS: Mapping[str, Vendor] = {
    "generic": UNKNOWN,
    "llama_cpp": Vendor(owners=frozenset({"llamacpp"}), server="llama.cpp", lists_loaded=True, sleeping_path="/props"),
    "ollama": Vendor(owners=frozenset({"library"}), running_path="/api/ps", length_name="max_tokens"),
    "openai": Vendor(host="api.openai.com", length_name="max_completion_tokens"),
    "sglang": Vendor(owners=frozenset({"sglang"}), lists_loaded=True),
    "vllm": Vendor(owners=frozenset({"vllm"}), lists_loaded=True),
}
LENGTH_NAMES = ("max_tokens", "max_completion_tokens")

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_TOOLS = re.compile(
    r"does not support tools"  # Ollama
    r"|tools param requires --jinja"  # llama.cpp
    r"|tool choice requires --enable-auto-tool-choice"  # vLLM
    r"|endpoints found that support tool use"  # OpenRouter
)
_NO_IMAGES = re.compile(
    r"image input is not supported"  # llama.cpp, with a 500
    r"|is not a multimodal model"  # vLLM, SGLang
    r"|does not support image"  # Ollama and others
    r"|endpoints found that support image input"  # OpenRouter
)


def guessed(models: Sequence[ModelInfo], *, server: str, host: str | None) -> Vendor:
    """Whose list of models this is, by its owners, the answer's `Server` header and the address; UNKNOWN where nothing tells."""
    owners = {info.owned_by for info in models}
    for vendor in VENDORS.values():
        named = vendor.server is not None and server.startswith(vendor.server)
        if owners & vendor.owners or named or (host is not None and host == vendor.host):
            return vendor
    return UNKNOWN


def with_length_name(body: bytes, name: str | None) -> bytes:
    """The body with the length of its answer under this name. A name that the client has used already stays."""
    if name is None:
        return body
    other = LENGTH_NAMES[1 - LENGTH_NAMES.index(name)]
    if f'"{other}"'.encode() not in body:
        return body
    members = _BODY.decode(body)
    length = members.pop(other, None)
    if length is None:  # the word was in a text
        return body
    members.setdefault(name, length)
    return msgspec.json.encode(members)


def refusal(error: BackendError) -> BackendError:
    """The same error, or one that says by its code what the server said in words alone."""
    if error.status in (401, 403, 429) or (isinstance(error, BackendRejected) and error.param is not None):
        return error
    if _NO_TOOLS.search(error.message):
        return BackendRejected(error.message, status=400, code="unsupported_parameter", param="tools")
    if _NO_IMAGES.search(error.message):
        return BackendRejected(error.message, status=400, code="unsupported_content_type")
    return error
