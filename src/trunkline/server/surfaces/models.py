"""GET /v1/models and /v1/models/{id}: what a client may ask for."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.config.profiles import Profile
from trunkline.ports.backend import NO_OWNER, ModelInfo
from trunkline.server.json_response import send_json
from trunkline.server.runtime import Runtime


class ListModels:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = await self._runtime.router.models()
        body = {"object": "list", "data": [_model(info, self._runtime.profile) for info in models]}
        await send_json(msgspec.json.encode(body), send)


class RetrieveModel:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["path_params"]["model"]
        for info in await self._runtime.router.models():
            if info.id == asked:
                await send_json(msgspec.json.encode(_model(info, self._runtime.profile)), send)
                return
        raise await self._runtime.router.unknown(asked)


def _model(info: ModelInfo, profile: Profile) -> dict[str, object]:
    written: dict[str, object] = {
        "id": info.id,
        "object": "model",
        "created": info.created_at,
        "owned_by": profile.owned_by if info.owned_by == NO_OWNER else info.owned_by,
    }
    if profile.model_lineage:
        written |= {"permission": [], "root": info.id, "parent": None}
    if info.context_tokens is not None:
        written["context_window"] = info.context_tokens
    return written


def routes(runtime: Runtime) -> list[BaseRoute]:
    return [
        Route("/v1/models", ListModels(runtime), methods=["GET"]),
        Route("/v1/models/{model:path}", RetrieveModel(runtime), methods=["GET"]),
    ]
