"""Which API a model server at a bare address speaks: `serve http://127.0.0.1:11434`, without the `/v1` of chat completions.

Ollama is at home at such an address, and can be asked: it lists its models where nobody else does. It is asked once, at the start,
and not for long. A server that does not answer yet is taken for Ollama at Ollama's own port, and for a chat server elsewhere.
"""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from trunkline.config.schema import Config, HttpSettings
from trunkline.model.errors import BackendError
from trunkline.plugins import build_backend
from trunkline.ports.backend import BackendSetup
from trunkline.ports.runtime import SystemClock, SystemEntropy

OLLAMA_PORT = 11434
WITHIN_S = 2.0


async def with_dialects(config: Config) -> Config:
    """The configuration of a single target, with the dialect of its model server."""
    told = dict(config.backends)
    for name, settings in config.backends.items():
        if isinstance(settings, HttpSettings) and await _is_ollama(settings):
            told[name] = msgspec.structs.replace(settings, dialect="ollama_chat")
    return msgspec.structs.replace(config, backends=told)


async def _is_ollama(settings: HttpSettings) -> bool:
    parts = urlsplit(settings.endpoints[0])
    if parts.path.strip("/"):
        return False
    asked = msgspec.structs.replace(
        settings, dialect="ollama_chat", connect_timeout_s=WITHIN_S, first_event_timeout_s=WITHIN_S
    )
    setup = BackendSetup(name="upstream", base_dir=Path(), clock=SystemClock(), entropy=SystemEntropy())
    backend = build_backend(asked, setup)
    await backend.start()
    try:
        async with asyncio.timeout(WITHIN_S):  # of the whole answer: one may also come byte by byte
            await backend.models()
    except (BackendError, TimeoutError):
        return parts.port == OLLAMA_PORT
    finally:
        await backend.close()
    return True
