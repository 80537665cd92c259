"""An Ollama server that does what it is told, over real sockets: its own API and the compatible one under /v1.

It says what the real one says (server/routes.go of 0.1x to 2026-08): statuses, error texts, lines, what is left out when it is 0,
and it refuses what Go's decoder refuses, so that a client's body is checked and not only kept. Each inference takes the
next `Reply` of `replies`, or `default`. `loaded` follows what is asked, and a model that is not there waits for `gate` while it
loads. `ids = False` is an older version, whose calls have no ids.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web

CREATED_AT = "2025-07-07T20:22:19.184789Z"
CREATED_S = 1751919739
DURATIONS = {
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_duration": 342546000,
    "eval_duration": 4535599000,
}
OPTIONS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("num_ctx", "num_predict", "num_keep", "seed", "top_k", "repeat_last_n"), int),
    **dict.fromkeys(("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"), (int, float)),
    "stop": list,
}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says, and what goes wrong.

    `status` refuses with `error`. Otherwise `error` is the line after all that was said, in place of the last; `cut` ends the
    connection there. `hold` waits before the last piece of what is said.
    """

    text: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    done_reason: str = "stop"
    prompt_tokens: int = 26
    tokens: int = 4
    status: int | None = None
    error: str | None = None
    cut: bool = False
    hold: asyncio.Event | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model it has pulled."""

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools", "vision", "thinking")
    family: str = "llama"
    context_length: int = 131072
    size: int = 2019393189

    @property
    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        }

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


class Received(msgspec.Struct, frozen=True):
    """A request as it came; `body` is None where there was none."""

    path: str
    headers: dict[str, str]
    body: Any


class Refused(Exception):
    """What the real server answers with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeOllama:
    """Listens on a free port."""

    def __init__(self) -> None:
        self.url = ""
        self.version = "0.24.0"
        self.ids = True
        self.models = {"llama3.2:latest": Model(name="llama3.2:latest")}
        self.loaded: dict[str, int] = {}  # name to context length, in the order of loading
        self.gate: asyncio.Event | None = None
        self.loading = asyncio.Event()  # a model waits for the gate
        self.default = Reply(text=("Hello", " there", "!"))
        self.replies: deque[Reply] = deque()
        self.requests: list[Received] = []
        self.refused: set[str] = set()  # paths that a proxy before it does not let through
        self.left = asyncio.Event()  # a client has gone before its answer had ended
        self._calls = 0

    def add(self, name: str, *capabilities: str, loaded: bool = False) -> None:
        model = Model(name=name, capabilities=capabilities) if capabilities else Model(name=name)
        self.models[name] = model
        if loaded:
            self.loaded[name] = 4096

    def posts(self, path: str) -> list[Any]:
        """The bodies that came to this path."""
        return [request.body for request in self.requests if request.path == path]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[self._errors])
        app.router.add_get("/", _running)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/chat", self._chat)
        app.router.add_post("/api/generate", self._generate)
        app.router.add_post("/api/embed", self._embed)
        app.router.add_get("/v1/models", self._v1_models)
        app.router.add_post("/v1/chat/completions", self._v1_chat)
        app.router.add_post("/v1/embeddings", self._v1_embeddings)
        return app

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        data = await request.read()
        body: Any = None
        with contextlib.suppress(ValueError):
            body = json.loads(data)
        self.requests.append(Received(request.path, dict(request.headers), body))
        try:
            if request.path in self.refused:
                return web.Response(status=404, text="404 page not found")
            if request.method == "POST" and not isinstance(body, dict):
                raise Refused(400, "missing request body" if not data else "invalid character in JSON")
            return await handler(request)
        except Refused as refused:
            if request.path.startswith("/v1/"):
                kinds = {400: "invalid_request_error", 404: "not_found_error"}
                kind = kinds.get(refused.status, "api_error")
                error: Any = {"message": refused.message, "type": kind, "param": None, "code": None}
            else:
                error = refused.message
            return _json({"error": error}, status=refused.status)
        except asyncio.CancelledError:
            self.left.set()
            raise

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = self.requests[-1].body
        return body

    def _model(self, name: Any) -> Model:
        if not isinstance(name, str) or not name:
            raise Refused(400, "model is required")
        model = self.models.get(name) or self.models.get(f"{name}:latest")
        if model is None:
            raise Refused(404, f"model '{name}' not found")
        return model

    async def _load(self, model: Model, body: dict[str, Any]) -> None:
        if model.name not in self.loaded and self.gate is not None:
            self.loading.set()
            await self.gate.wait()
        self.loaded[model.name] = (body.get("options") or {}).get("num_ctx", 4096)

    async def _version(self, request: web.Request) -> web.Response:
        return _json({"version": self.version})

    async def _tags(self, request: web.Request) -> web.Response:
        return _json(
            {
                "models": [
                    {
                        "name": model.name,
                        "model": model.name,
                        "modified_at": "2025-05-10T08:06:48.639712648-07:00",
                        "size": model.size,
                        "digest": model.digest,
                        "details": model.details,
                        "capabilities": model.capabilities,
                    }
                    for model in self.models.values()
                ]
            }
        )

    async def _ps(self, request: web.Request) -> web.Response:
        return _json(
            {
                "models": [
                    {
                        "name": name,
                        "model": name,
                        "size": self.models[name].size,
                        "digest": self.models[name].digest,
                        "details": self.models[name].details,
                        "expires_at": "2025-07-07T13:27:19.83753-07:00",
                        "size_vram": self.models[name].size,
                        "context_length": context,
                    }
                    for name, context in self.loaded.items()
                ]
            }
        )

    async def _show(self, request: web.Request) -> web.Response:
        body = self._body()
        model = self._model(body.get("model") or body.get("name"))
        info = {
            "general.architecture": model.family,
            "general.basename": model.name.partition(":")[0],
            f"{model.family}.context_length": model.context_length,
        }
        return _json(
            {
                "license": "MIT",
                "modelfile": f"FROM {model.name}",
                "template": "{{ .Prompt }}",
                "details": model.details,
                "model_info": info,
                "capabilities": model.capabilities,
                "modified_at": "2025-05-10T08:06:48.639712648-07:00",
            }
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = self._body()
        _check_chat(body)
        return await self._infer(request, body, empty=not body.get("messages"), shape=_as_message)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = self._body()
        _check_generate(body)
        return await self._infer(request, body, empty=not body.get("prompt"), shape=_as_response)

    async def _infer(
        self, request: web.Request, body: dict[str, Any], *, empty: bool, shape: Callable[..., dict[str, Any]]
    ) -> web.StreamResponse:
        model = self._model(body.get("model"))
        head = {"model": body["model"], "created_at": CREATED_AT}
        if empty and body.get("keep_alive") in (0, "0", "0s"):
            self.loaded.pop(model.name, None)
            return _json({**head, **shape("", {}), "done": True, "done_reason": "unload"})
        if body.get("think") and "thinking" not in model.capabilities:
            raise Refused(400, f'"{body["model"]}" does not support thinking')
        if body.get("tools") and "tools" not in model.capabilities:
            raise Refused(400, f"registry.ollama.ai/library/{model.name} does not support tools")
        await self._load(model, body)
        if empty:
            return _json({**head, **shape("", {}), "done": True, "done_reason": "load"})
        reply = self._next()
        lines = [{**head, **line} for line in self._lines(reply, body, shape)]
        if body.get("stream") is False:
            if reply.hold is not None:
                await reply.hold.wait()
            if reply.cut:
                raise ConnectionResetError
            if reply.error is not None:
                raise Refused(500, reply.error)
            return _json(_joined(lines))
        pieces = [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines]
        return await self._stream(request, reply, pieces, kind="application/x-ndjson")

    def _next(self) -> Reply:
        reply = self.replies.popleft() if self.replies else self.default
        if reply.status is not None:
            raise Refused(reply.status, reply.error or "refused")
        return reply

    def _lines(
        self, reply: Reply, body: dict[str, Any], shape: Callable[..., dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """The lines of a stream; no last one where something goes wrong."""
        said, done_reason = _within_limits(reply, body.get("options") or {})
        for text in reply.thinking:
            yield {**shape("", {"thinking": text}), "done": False, **_logprobs(text, body)}
        for text in said:
            yield {**shape(text, {}), "done": False, **_logprobs(text, body)}
        for number, (name, arguments) in enumerate(reply.calls):
            yield {**shape("", {"tool_calls": [self._call(number, name, arguments)]}), "done": False}
        if reply.error is not None:
            yield {"error": reply.error}
        elif not reply.cut:
            counts = {"prompt_eval_count": reply.prompt_tokens, "eval_count": reply.tokens}
            yield {
                **shape("", {}),
                "done": True,
                **({"done_reason": done_reason} if done_reason else {}),
                **DURATIONS,
                **{key: count for key, count in counts.items() if count},
            }

    def _call(self, number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        identity = {"id": f"call_{self._calls:08x}"} if self.ids else {}
        index = {"index": number} if self.ids else {}
        return {**identity, "function": {**index, "name": name, "arguments": arguments}}

    async def _stream(
        self, request: web.Request, reply: Reply, pieces: list[bytes], *, kind: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for number, piece in enumerate(pieces):
            if reply.hold is not None and number == len(pieces) - 1:
                await reply.hold.wait()
            await response.write(piece)
        if reply.cut:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        body = self._body()
        given = body.get("input")
        inputs = [given] if isinstance(given, str) else given
        if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
            raise Refused(400, "invalid input type")
        model = self._model(body.get("model"))
        await self._load(model, body)
        vectors = [_vector(text)[: body.get("dimensions") or None] for text in inputs]
        counted = sum(len(text.split()) for text in inputs)
        return _json(
            {
                "model": body["model"],
                "embeddings": vectors,
                "total_duration": 14143917,
                "load_duration": 1019500,
                "prompt_eval_count": counted,
            }
        )

    async def _v1_embeddings(self, request: web.Request) -> web.Response:
        body = self._body()
        model = self._model(body.get("model"))
        await self._load(model, body)
        inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"object": "embedding", "index": place, "embedding": _vector(text)[: body.get("dimensions") or None]}
            for place, text in enumerate(inputs)
        ]
        counted = sum(len(text.split()) for text in inputs)
        usage = {"prompt_tokens": counted, "total_tokens": counted}
        return _json({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def _v1_models(self, request: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "created": 1746889608, "owned_by": "library"} for name in self.models]
        return _json({"object": "list", "data": listed})

    async def _v1_chat(self, request: web.Request) -> web.StreamResponse:
        body = self._body()
        if not body.get("messages"):
            raise Refused(400, "[] is too short - 'messages'")
        model = self._model(body.get("model"))
        await self._load(model, body)
        reply = self._next()
        head = {"id": "chatcmpl-871", "created": CREATED_S, "model": body["model"], "system_fingerprint": "fp_ollama"}
        calls = [
            {"id": call["id"], "index": call["function"]["index"], "type": "function", "function": function}
            for number, (name, arguments) in enumerate(reply.calls)
            for call in [self._call(number, name, arguments)]
            for function in [{"name": name, "arguments": json.dumps(arguments)}]
        ]
        finish = "tool_calls" if calls else reply.done_reason
        usage = {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.tokens,
            "total_tokens": reply.prompt_tokens + reply.tokens,
        }
        if not body.get("stream"):
            if reply.error is not None:
                raise Refused(500, reply.error)
            message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.text)}
            if reply.thinking:
                message["reasoning"] = "".join(reply.thinking)
            if calls:
                message["tool_calls"] = calls
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return _json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        deltas: list[dict[str, Any]] = [{"content": "", "reasoning": text} for text in reply.thinking]
        deltas += [{"content": text} for text in reply.text]
        deltas += [{"content": "", "tool_calls": [call]} for call in calls]
        chunks: list[dict[str, Any]] = [_chunk(head, {"role": "assistant", **delta}, None) for delta in deltas]
        if reply.error is not None:
            error = {"message": reply.error, "type": "api_error", "param": None, "code": None}
            chunks.append({"error": error})
        elif not reply.cut:
            chunks.append(_chunk(head, {"role": "assistant", "content": ""}, finish))
            if (body.get("stream_options") or {}).get("include_usage"):
                chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        pieces = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        if reply.error is None and not reply.cut:
            pieces.append(b"data: [DONE]\n\n")
        return await self._stream(request, reply, pieces, kind="text/event-stream")


async def _running(request: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=lambda one: json.dumps(one, ensure_ascii=False))


def _as_message(text: str, members: dict[str, Any]) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, **members}}


def _as_response(text: str, members: dict[str, Any]) -> dict[str, Any]:
    return {"response": text, **members}


def _joined(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole answer: the last line with what all of them said."""
    last = dict(lines[-1])
    logprobs = [entry for line in lines for entry in line.get("logprobs", [])]
    if logprobs:
        last["logprobs"] = logprobs
    said = [line.get("message", line) for line in lines]
    content = "content" if "message" in last else "response"
    joined = {content: "".join(one[content] for one in said)}
    thinking = "".join(one.get("thinking", "") for one in said)
    calls = [call for one in said for call in one.get("tool_calls", [])]
    joined.update({"thinking": thinking} if thinking else {})
    more: dict[str, Any] = {**joined, **({"tool_calls": calls} if calls else {})}
    return {**last, "message": {**last["message"], **more}} if "message" in last else {**last, **more}


def _within_limits(reply: Reply, options: dict[str, Any]) -> tuple[list[str], str]:
    """The pieces up to a stop sequence or `num_predict`, each piece a token, and the reason of the end."""
    whole = "".join(reply.text)
    left = min((whole.index(stop) for stop in options.get("stop") or () if stop in whole), default=len(whole))
    pieces = []
    for text in reply.text:
        pieces.append(text[:left])
        left -= len(pieces[-1])
    pieces, limit = [piece for piece in pieces if piece], options.get("num_predict") or -1
    return (pieces[:limit], "length") if 0 < limit < len(pieces) else (pieces, reply.done_reason)


def _logprobs(text: str, body: dict[str, Any]) -> dict[str, Any]:
    if not body.get("logprobs"):
        return {}
    token = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    top = [token, {"token": "?", "logprob": -2.5, "bytes": [63]}][: body.get("top_logprobs", 0)]
    return {"logprobs": [{**token, **({"top_logprobs": top} if top else {})}]}


def _vector(text: str) -> list[float]:
    """Four numbers of length 1 that depend on the text alone."""
    numbers = [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:4]]
    length = sum(number * number for number in numbers) ** 0.5
    return [number / length for number in numbers]


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def _expect(value: Any, kind: type | tuple[type, ...], field: str) -> None:
    """As Go's decoder: null is the zero value, everything else has its type."""
    allowed = kind if isinstance(kind, tuple) else (kind,)
    if value is not None and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
        names = {str: "string", list: "array", dict: "object", bool: "bool", int: "number", float: "number"}
        got = names.get(type(value), "number")
        raise Refused(400, f"json: cannot unmarshal {got} into Go struct field {field} of type {names[allowed[0]]}")


def _check_common(body: dict[str, Any]) -> None:
    _expect(body.get("stream"), bool, "ChatRequest.stream")
    _expect(body.get("logprobs"), bool, "ChatRequest.logprobs")
    _expect(body.get("top_logprobs"), int, "ChatRequest.top_logprobs")
    if not 0 <= (body.get("top_logprobs") or 0) <= 20:
        raise Refused(400, "top_logprobs must be between 0 and 20")
    think = body.get("think")
    if think is not None and not isinstance(think, bool) and think not in ("high", "medium", "low", "max"):
        raise Refused(400, f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)')
    form = body.get("format")
    if form not in (None, "", "json") and not isinstance(form, dict):
        raise Refused(400, f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object')
    _expect(body.get("options"), dict, "ChatRequest.options")
    for name, value in (body.get("options") or {}).items():
        kind = OPTIONS.get(name)
        if kind is not None and value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise Refused(400, f'option "{name}" must be of type {"array" if kind is list else "number"}')


def _check_images(images: Any) -> None:
    _expect(images, list, "ChatRequest.messages.images")
    for image in images or []:
        _expect(image, str, "ChatRequest.messages.images")
        try:
            base64.b64decode(image, validate=True)
        except binascii.Error:
            raise Refused(400, "illegal base64 data at input byte 4") from None


def _check_chat(body: dict[str, Any]) -> None:
    _check_common(body)
    _expect(body.get("messages"), list, "ChatRequest.messages")
    for message in body.get("messages") or []:
        _expect(message, dict, "ChatRequest.messages")
        for name in ("role", "content", "thinking", "tool_name", "tool_call_id"):
            _expect(message.get(name), str, f"ChatRequest.messages.{name}")
        _check_images(message.get("images"))
        for call in message.get("tool_calls") or []:
            _expect(call.get("id"), str, "ChatRequest.messages.tool_calls.id")
            function = call.get("function") or {}
            _expect(function.get("name"), str, "ChatRequest.messages.tool_calls.function.name")
            _expect(function.get("arguments"), dict, "ChatRequest.messages.tool_calls.function.arguments")
    for tool in body.get("tools") or []:
        _expect(tool.get("function"), dict, "ChatRequest.tools.function")
        _expect(tool["function"].get("parameters"), dict, "ChatRequest.tools.function.parameters")


def _check_generate(body: dict[str, Any]) -> None:
    _check_common(body)
    for name in ("prompt", "suffix", "system", "template"):
        _expect(body.get(name), str, f"GenerateRequest.{name}")
    _check_images(body.get("images"))
    if body.get("raw") and (body.get("template") or body.get("system") or body.get("context")):
        raise Refused(400, "raw mode does not support template, system, or context")


@contextlib.asynccontextmanager
async def fake_ollama() -> AsyncIterator[FakeOllama]:
    fake = FakeOllama()
    runner = web.AppRunner(fake.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()
