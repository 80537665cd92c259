"""The configuration as frozen Structs. Unknown keys are refused; every field's default is the documented one.

A backend's table is chosen by its `type`. Settings that any backend has are in `BackendSettings`. The reference page
docs/configuration.md is generated from these classes: the attribute docs below each class are its text.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from trunkline.model.request import ToolEvents, ToolItems

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Size = Annotated[int, msgspec.Meta(ge=0)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class KeySettings(_Table, frozen=True, kw_only=True):
    """One API key. Its name is the tenant: what is stored under one name is invisible under another.

    Attributes:
        name: The tenant this key belongs to.
        key: The bearer token clients send.
        admin: Whether this key may read what belongs to the whole server.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    key: Annotated[str, msgspec.Meta(min_length=1)]
    admin: bool = False


class ServerSettings(_Table, frozen=True, kw_only=True):
    """How the server listens and what it accepts.

    Attributes:
        host: Address to listen on. Anything but loopback needs an API key.
        port: Port to listen on; 0 takes a free one and prints it.
        profile: Wire settings to speak with; see docs/profiles.md.
        api_keys: Bearer tokens; all of them are one tenant, `default`. Absent: open, on loopback only.
        keys: Bearer tokens with a name, each its own tenant.
        cors_origins: Browser origins that may call, exactly as browsers send them. `*` allows any origin, without credentials.
        tool_events: What streamed chat completions show of the tools that an agent runs itself and of what it asks, where the
            client does not say: `off`, named events (`events`), or lines of reasoning (`reasoning`) for chat UIs that show only
            that; absent: as the profile says. Where nothing is shown, what an agent asks is denied at once. Streams of Responses
            show its questions with `events` alone.
        tool_items: As what a response has the tools that an agent runs itself: a `function_call` and its output, or an `mcp_call`,
            which clients that run tools of their own do not take for one of those; absent: as the profile says.
        default_model: Model that answers when a request names none; absent: such a request is a 400.
        model_name: Name under which a single agent is shown.
        keepalive_s: Seconds of silence after which a stream sends an SSE comment.
        max_body_bytes: Largest request body accepted.
        shutdown_grace_s: Seconds that in-flight answers get to finish after SIGINT or SIGTERM.
        access_log: Whether every request is logged in one line.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8400
    profile: str = "openai"
    api_keys: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    keys: tuple[KeySettings, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tool_events: ToolEvents | None = None
    tool_items: ToolItems | None = None
    default_model: str | None = None
    model_name: str | None = None
    keepalive_s: Positive = 15.0
    max_body_bytes: Count = 20_000_000
    shutdown_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    access_log: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class BackendSettings(_Table, frozen=True, kw_only=True, tag_field="type"):
    """Settings that any backend has.

    Attributes:
        timeout_s: Seconds one turn may take.
        max_concurrency: Turns it works on at once, for each of its endpoints and models; more wait in the queue.
        max_queue: Turns that may wait; one more is answered 429 with Retry-After.
        streaming: Whether clients may ask for a stream.
        sessions: Whether a session that a client names is kept here: its history comes from the store, and it has one turn at a
            time. Otherwise its name only says which turns belong together. The first backend of the model's route decides.
        on_disconnect: What becomes of a turn whose client has left: `cancel` stops it, `finish` lets it end (a stored response
            can be retrieved once it has), a number gives it that many seconds.
        on_lost: What becomes of a background response whose server stopped while it was being answered: `fail` ends it as
            `failed` with the code `worker_lost`, `restart` has it answered again from the start, after crashes at most
            three times. The first backend of the model's route decides.
    """

    timeout_s: Positive = 600.0
    max_concurrency: Count = 64
    max_queue: Size = 256
    streaming: bool = True
    sessions: bool = False
    on_disconnect: Literal["cancel", "finish"] | Positive = "cancel"
    on_lost: Literal["fail", "restart"] = "fail"


class EmbeddedSettings(BackendSettings, frozen=True, kw_only=True, tag="embedded"):
    """A model inside this process.

    Attributes:
        path: GGUF file; absent: the model that `make install` fetched.
        model_name: Name it is offered under; absent: the file's name, lower case.
        slots: Requests it generates for at once; more wait inside the engine.
        context_tokens: Prompt and answer of one request, in tokens.
        threads: CPU threads; absent: all cores.
        preload_embeddings: Whether the engine for embeddings is loaded at the start. Otherwise the first request for them loads it,
            and everything else waits meanwhile, streams too.
    """

    path: str | None = None
    model_name: str | None = None
    slots: Count = 4
    context_tokens: Count = 4096
    threads: Count | None = None
    preload_embeddings: bool = False


class HttpSettings(BackendSettings, frozen=True, kw_only=True, tag="http"):
    """A model server.

    Attributes:
        endpoints: Base URLs, as in `http://127.0.0.1:8000/v1`; with Ollama's own API `http://127.0.0.1:11434`. Several share
            the work: each gets what it has the model for.
        dialect: What it speaks: chat completions, Responses natively, or Ollama's own API.
        api_key: Bearer token sent to it.
        vendor: Which server it is, for its known differences; absent: seen in its list of models, else `generic`.
        models: Its models, where it cannot list them itself.
        weight: Its share of the work where other backends offer the same model: one with 2 gets twice as much as one with 1.
        retries: How often a call that failed before its answer began is sent again to the same endpoint, after a pause or what
            its Retry-After says. Other endpoints are tried first, whatever this is.
        connect_timeout_s: Seconds to open a connection.
        first_event_timeout_s: Seconds until the first byte of an answer.
        idle_timeout_s: Seconds between two reads of one answer.
        max_connections: Connections to it at once.
        trust_env: Whether proxy variables of the environment apply.
    """

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    dialect: Literal["openai_chat", "openai_responses", "ollama_chat"] = "openai_chat"
    api_key: str | None = None
    vendor: Literal["generic", "llama_cpp", "ollama", "openai", "sglang", "vllm"] | None = None
    models: tuple[str, ...] = ()
    weight: Positive = 1.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    connect_timeout_s: Positive = 5.0
    first_event_timeout_s: Positive = 300.0
    idle_timeout_s: Positive = 120.0
    max_connections: Count = 4096
    max_concurrency: Count = 4096
    trust_env: bool = False


class PythonSettings(BackendSettings, frozen=True, kw_only=True, tag="python"):
    """A Python agent.

    Attributes:
        target: `module:attribute` or `path/file.py:attribute`, relative to the configuration file.
        history: What the agent sees of the conversation: all of it, the last message only, or all of it as one text.
        client_tools: Whether the agent handles tools that the client declares; otherwise they are refused, or, with `ignore`,
            named in `x-trunkline-ignored` and answered without.
        approval_timeout_s: Seconds a question of the agent (`turn.approve`) waits for an answer; then it is denied.
    """

    target: str
    sessions: bool = True
    history: Literal["full", "last", "flatten"] = "full"
    client_tools: bool | Literal["ignore"] = False
    approval_timeout_s: Positive = 300.0


class ScriptedSettings(BackendSettings, frozen=True, kw_only=True, tag="scripted"):
    """A deterministic backend for tests and demonstrations.

    Attributes:
        script: TOML file with the answers; absent: it repeats the last user message word by word.
        delay_s: Seconds between two events.
        models: Names it answers to.
    """

    script: str | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    models: tuple[str, ...] = ("scripted",)


Backend = EmbeddedSettings | HttpSettings | PythonSettings | ScriptedSettings


class RouteSettings(_Table, frozen=True, kw_only=True):
    """One step of a model's route.

    Attributes:
        backend: Name of the backend.
        model: The backend's own name for the model; absent: its only or first one.
    """

    backend: str
    model: str | None = None


class ModelSettings(_Table, frozen=True, kw_only=True):
    """A model name that clients use.

    Attributes:
        name: The name.
        routes: Who answers, in order; the rest are fallbacks.
        cache: Whether what it has answered is given again to whoever asks the same; see docs/cache.md.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    routes: Annotated[tuple[RouteSettings, ...], msgspec.Meta(min_length=1)]
    cache: bool = False


class StoreSettings(_Table, frozen=True, kw_only=True):
    """What is kept between requests: responses, conversations, sessions, background runs, stored chat completions. See
    docs/store.md.

    Attributes:
        url: `sqlite:///FILE`, relative to the configuration file, or `sqlite:////FILE` from the root; or `memory:`, which a
            restart empties.
        max_responses: How many responses each tenant may keep, and how many stored chat completions; beyond that the
            least recently used give way.
        max_sessions: How many sessions each tenant may keep; beyond that the least recently used give way.
        max_age_s: Seconds after which a response or a stored chat completion is removed, and a session to which nothing was added;
            absent: never.
    """

    url: Annotated[str, msgspec.Meta(min_length=1)] = "sqlite:///trunkline.db"
    max_responses: Count = 10_000
    max_sessions: Count = 10_000
    max_age_s: Positive | None = None


class SessionSettings(_Table, frozen=True, kw_only=True):
    """Sessions that clients name, with backends that keep them. See docs/sessions.md.

    Attributes:
        when_busy: What becomes of a turn while another one of its session is under way: `wait` lets it wait for its turn, `refuse`
            answers 409 at once.
        max_waiting: Turns of one session that may wait; one more is answered 429 with Retry-After.
        skip_auxiliary: Whether what chat UIs ask for themselves, as titles and tags, stays out of the session that it names, and
            whether Open WebUI's temporary chats name none.
    """

    when_busy: Literal["wait", "refuse"] = "wait"
    max_waiting: Size = 64
    skip_auxiliary: bool = True


class RunSettings(_Table, frozen=True, kw_only=True):
    """Work in the background: runs and background responses, which are the same. See docs/runs.md.

    Attributes:
        max_runs: How many of each tenant's may wait or be answered; one more is answered 429 with Retry-After.
        keep_s: Seconds after its end for which a run can be listed and its events read; absent: as long as its response is kept.
    """

    max_runs: Count = 1024
    keep_s: Positive | None = None


class IdempotencySettings(_Table, frozen=True, kw_only=True):
    """Answers that are given again to whoever sends the same `Idempotency-Key`. See docs/idempotency.md.

    Attributes:
        ttl_s: Seconds for which an answer is kept under its key.
        max_answers: How many of each tenant; the oldest give way.
        max_bytes: How large those of each tenant may be together; the oldest give way.
    """

    ttl_s: Positive = 86_400.0
    max_answers: Count = 10_000
    max_bytes: Count = 64_000_000


class CacheSettings(_Table, frozen=True, kw_only=True):
    """Answers that are given again, for the models and the requests that ask for it. See docs/cache.md.

    Attributes:
        ttl_s: Seconds for which an answer is kept.
        max_bytes: Memory for all answers together; the least recently used give way.
        semantic: Whether a question that means the same is answered too, not only one of the same words. Needs
            the extra `semantic-cache` and its model: see docs/cache.md.
        threshold: How much alike two questions must be, as the cosine of their embeddings; 1 is the same.
        embedding_model: Folder with `model.onnx` and `tokenizer.json`; absent: the ones of requirements/semantic-model.txt.
    """

    ttl_s: Positive = 3600.0
    max_bytes: Count = 64_000_000
    semantic: bool = False
    threshold: Annotated[float, msgspec.Meta(ge=0.5, le=1)] = 0.88
    embedding_model: str | None = None


class Config(_Table, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        server: How it listens.
        store: What it keeps.
        sessions: How sessions go.
        runs: How much goes on in the background.
        cache: What it answers again.
        idempotency: What it answers once.
        backends: Who answers, by name.
        models: Names clients use, each with its route. A backend without an entry offers its models under their own names.
    """

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    sessions: SessionSettings = SessionSettings()
    runs: RunSettings = RunSettings()
    cache: CacheSettings = CacheSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    backends: Mapping[str, Backend] = {}
    models: tuple[ModelSettings, ...] = ()
