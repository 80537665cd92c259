"""Profiles: small frozen sets of wire settings, one per system whose clients trunkline serves (decisions.md).

A profile is data. No code asks which profile is in force; it reads a setting. The default is what OpenAI's own clients
expect. Further profiles come with the systems they speak for; docs/profiles.md is generated from this table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from trunkline.model.errors import ConfigError
from trunkline.model.request import ToolEvents, ToolItems

ModelChoice = Literal["known", "first", "any"]
ExtraSurface = Literal["/api/sessions", "/api/jobs", "/api/cron", "/api/platforms", "/v1/skills", "/v1/toolsets", "/p"]

_OPEN = frozenset({"/health", "/health/detailed", "/health/ready", "/v1/health"})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Wire settings.

    Attributes:
        json_spacing: JSON in streams, answers, errors and sessions is written `"key": value` instead of `"key":value`.
        error_style: `openai` is `{"error": {message, type, param, code}}`; `plain` is `{"error": type, "detail": message}`.
        platform_name: What `/health` gives as `platform`; absent: the key is left out.
        own_name: Name of what is this server's own on the wire: its events in chat streams (`NAME.tool.progress`), the member with
            what an answer's API has no word for (`NAME`), the headers that go with that (`x-NAME-completed`).
        session_header: Request and response header that carries the session id.
        memory_key_header: Request and response header that carries the key of an agent's long-term memory.
        session_prefix: What is put before a session id from a body.
        default_session: The session of a request that names none; absent: found out.
        session_needs_key: Only where the server asks for an API key may a session be named.
        done_sentinel: `[DONE]` follows the last event of a stream of the Responses API.
        usage_details: The usage of a response always has its details, 0 where unknown; otherwise as far as they are known.
        run_object: `object` of a run.
        run_accepted: `status` in the answer to a run's creation.
        run_statuses: Other words for statuses of a run.
        approval_choices: Other words for choices in the answer to an agent's question; with them its case does not matter either.
        chat_usage: `known`: a chat completion has its usage where somebody counted, a stream in a last chunk where the client asks
            for it. `always`: a whole one always has it, 0 where unknown, as has such a stream. `finish`: so has the last chunk with
            a finish reason.
        tool_events: What chat streams show of the tools that an agent runs itself, unless the client or `server.tool_events` says
            otherwise: nothing (`off`), named events (`events`), or lines of reasoning (`reasoning`).
        tool_event_shape: `chunk` is a chunk without choices that has the members of the event; `bare` is
            `{tool, emoji, label, toolCallId, status}`.
        tool_items: As what a response has the tools that an agent runs itself, unless `server.tool_items` says otherwise: a
            `function_call` and its output, or an `mcp_call`.
        tool_output_lists: In streams of the Responses API the output of a tool is a list of parts, not a string.
        early_status: The head of a chat stream is sent once the request is found right, before the backend has said anything.
        cut_status: Status of a streamed response that the stopping server cut off; `incomplete` is also what one is whose
            client left, and then one as well that was cancelled.
        single_message: A chat request has exactly one message, of the user; the rest of the conversation is the agent's.
        remote_images: An image may be named by a URL; otherwise it has to be in the request, as a `data:` URL.
        empty_answer: Content of a chat answer that has none, nor a tool call or a refusal.
        chat_forms: A chat request may also be a form: `message`, `files`, `session_id`, `model`.
        model_choice: `known`: a model has to be named, unless there is a default, and known. `first`: without a name and a default
            the first model answers. `any`: and a name that is unknown is answered by the same.
        agent_name: What the only Python agent is called where `server.model_name` does not say; absent: by its target.
        owned_by: `owned_by` of models whose backend names no owner.
        model_lineage: Models are listed with `permission`, `root` and `parent`.
        unknown_model_status: Status of a chat request for an unknown model.
        capabilities_object: `object` of `/v1/capabilities`.
        ignores_tools: Tools that a client declares to an agent that has no use for them are ignored, and named in
            `x-trunkline-ignored`; otherwise they are refused.
        inherits_instructions: A response without `instructions` has those of the response it continues.
        explicit_history: A response may bring the conversation before it as chat messages, in `conversation_history`.
        reused_key: What becomes of an `Idempotency-Key` that comes with another request: `refuse` is 409, `replace` answers it and
            forgets the request before.
        max_messages: With `truncation: "auto"` the conversation is also cut to this many messages; absent: only to the context.
        defaults: Settings whose default differs under this profile.
        min_key_characters: Shortest API key with which the server listens on more than loopback.
        unknown_reference_status: Status of a response asked of an unknown model, or after an unknown response.
        open_paths: What needs no key.
        key_parameter: Query parameter that may carry the key in place of the header; absent: none.
        wrong_key_status: Status for a key that is nobody's; a missing one is 401.
        auth_errors: `openai` as other errors; `detail` is `{"detail": message}`.
        health: `alive`: `/health` asks nobody and is 200 while the process serves. `endpoints`: it asks every endpoint, and is 503
            while one of them cannot say what it offers.
        cache_member: Member of a request's body whose `cache` says whether the answer cache is wanted; absent: none.
        surfaces: Resources beside those that every profile has, by the path at and below which they are.
        tool_emojis: In the bare form of a tool's event, what stands before tools of that name; before others it is `⚡`.
        placeholder_keys: API keys with which the server listens on loopback only, because they stand in examples.
        lightens_requests: What a model refuses is left out and asked again: tools, images, and the oldest turns of a conversation
            that is too long, where the client said nothing of `truncation`.
    """

    json_spacing: bool = False
    error_style: Literal["openai", "plain"] = "openai"
    platform_name: str | None = None
    own_name: str = "trunkline"
    session_header: str = "x-session-id"
    memory_key_header: str = "x-session-key"
    session_prefix: str = ""
    default_session: str | None = None
    session_needs_key: bool = False
    done_sentinel: bool = True
    usage_details: bool = True
    run_object: str = "run"
    run_accepted: str = "queued"
    run_statuses: Mapping[str, str] = {}
    approval_choices: Mapping[str, str] = {}
    chat_usage: Literal["known", "always", "finish"] = "known"
    tool_events: ToolEvents = "off"
    tool_event_shape: Literal["chunk", "bare"] = "chunk"
    tool_items: ToolItems = "function_call"
    tool_output_lists: bool = False
    early_status: bool = False
    cut_status: Literal["failed", "incomplete"] = "failed"
    single_message: bool = False
    remote_images: bool = True
    empty_answer: str = ""
    chat_forms: bool = False
    model_choice: ModelChoice = "known"
    agent_name: str | None = None
    owned_by: str = "trunkline"
    model_lineage: bool = False
    unknown_model_status: Literal[400, 404] = 404
    capabilities_object: str = "trunkline.capabilities"
    ignores_tools: bool = False
    inherits_instructions: bool = False
    explicit_history: bool = False
    reused_key: Literal["refuse", "replace"] = "refuse"
    max_messages: int | None = None
    defaults: Mapping[str, int] = {}
    min_key_characters: int = 1
    unknown_reference_status: Literal[400, 404] = 400
    open_paths: frozenset[str] = _OPEN
    key_parameter: str | None = None
    wrong_key_status: Literal[401, 403] = 401
    auth_errors: Literal["openai", "detail"] = "openai"
    health: Literal["alive", "endpoints"] = "alive"
    cache_member: str | None = None
    surfaces: tuple[ExtraSurface, ...] = ()
    tool_emojis: Mapping[str, str] = {}
    placeholder_keys: frozenset[str] = frozenset()
    lightens_requests: bool = False


_HERMES_EMOJIS = {
    name: emoji
    for emoji, names in {
        "\u2328\ufe0f": ("browser_press", "browser_type"),
        "\u23f0": ("cronjob",),
        "\u2699\ufe0f": ("process",),
        "\u25c0\ufe0f": ("browser_back",),
        "\u2753": ("clarify",),
        "\U0001f310": ("browser_navigate",),
        "\U0001f3a8": ("image_generate",),
        "\U0001f3ac": ("video_analyze", "video_generate"),
        "\U0001f3e0": ("ha_call_service", "ha_get_state", "ha_list_entities", "ha_list_services"),
        "\U0001f40d": ("execute_code",),
        "\U0001f426": ("x_search",),
        "\U0001f441\ufe0f": ("browser_vision", "vision_analyze"),
        "\U0001f446": ("browser_click",),
        "\U0001f4ac": ("browser_dialog",),
        "\U0001f4bb": ("terminal",),
        "\U0001f4c4": ("web_extract",),
        "\U0001f4cb": ("todo",),
        "\U0001f4d6": ("read_file",),
        "\U0001f4da": ("skill_view", "skills_list"),
        "\U0001f4dc": ("browser_scroll",),
        "\U0001f4dd": ("skill_manage",),
        "\U0001f4f8": ("browser_snapshot",),
        "\U0001f500": ("delegate_task",),
        "\U0001f50a": ("text_to_speech",),
        "\U0001f50d": ("session_search", "web_search"),
        "\U0001f50e": ("search_files",),
        "\U0001f527": ("patch",),
        "\U0001f5a5\ufe0f": ("browser_console", "close_terminal", "read_terminal"),
        "\U0001f5bc\ufe0f": ("browser_get_images",),
        "\U0001f9e0": ("memory",),
        "\U0001f9ea": ("browser_cdp",),
        "\u270d\ufe0f": ("write_file",),
    }.items()
    for name in names
}
"""What hermes-agent shows before the names of its own tools."""

PROFILES = MappingProxyType(
    {
        "openai": Profile(),
        "nomyo": Profile(
            done_sentinel=False,
            usage_details=False,
            unknown_reference_status=404,
            open_paths=frozenset({"/", "/favicon.ico"}),
            key_parameter="api_key",
            wrong_key_status=403,
            auth_errors="detail",
            health="endpoints",
            cache_member="nomyo",
            lightens_requests=True,
        ),
        "hermes": Profile(
            json_spacing=True,
            platform_name="hermes-agent",
            own_name="hermes",
            session_header="x-hermes-session-id",
            memory_key_header="x-hermes-session-key",
            session_needs_key=True,
            done_sentinel=False,
            cut_status="incomplete",
            run_object="hermes.run",
            run_accepted="started",
            run_statuses={
                "in_progress": "running",
                "requires_action": "waiting_for_approval",
                "incomplete": "completed",
            },
            approval_choices={"approve": "once", "approved": "once", "allow": "once"},
            chat_usage="finish",
            tool_events="events",
            tool_event_shape="bare",
            tool_output_lists=True,
            model_choice="any",
            agent_name="hermes-agent",
            owned_by="hermes",
            model_lineage=True,
            capabilities_object="hermes.api_server.capabilities",
            ignores_tools=True,
            inherits_instructions=True,
            explicit_history=True,
            reused_key="replace",
            max_messages=100,
            defaults={
                "server.port": 8642,
                "store.max_responses": 100,
                "runs.max_runs": 10,
                "runs.keep_s": 3600,
                "idempotency.ttl_s": 300,
                "idempotency.max_answers": 1000,
            },
            min_key_characters=16,
            surfaces=("/api/sessions", "/api/jobs", "/api/cron", "/api/platforms", "/v1/skills", "/v1/toolsets", "/p"),
            tool_emojis=_HERMES_EMOJIS,
            placeholder_keys=frozenset(
                {
                    "*",
                    "**",
                    "***",
                    "changeme",
                    "dummy",
                    "example",
                    "none",
                    "null",
                    "placeholder",
                    "your-api-key",
                    "your_api_key",
                    "your_api_key_here",
                }
            ),
            unknown_reference_status=404,
        ),
        "nanobot": Profile(
            json_spacing=True,
            session_prefix="api:",
            default_session="api:default",
            chat_usage="always",
            early_status=True,
            single_message=True,
            remote_images=False,
            empty_answer="The agent ended without a final answer. Please try again or narrow the task.",
            chat_forms=True,
            model_choice="first",
            agent_name="nanobot",
            owned_by="nanobot",
            unknown_model_status=400,
            defaults={"server.port": 8900},
        ),
    }
)


def profile_named(name: str) -> Profile:
    """The profile of that name. Raises ConfigError that lists what exists."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(repr(known) for known in PROFILES)
        raise ConfigError(f"unknown profile {name!r}; known: {known}", key="server.profile") from None
