"""The session a request belongs to (decision 19), and the memory that its agent may use.

    the path > a header > the body > a conversation, or the response it continues > how it begins

What the first three say is named by the client: it wants what is kept under that name (`engine/sessions.py`). The rest is found
out, so that an agent can tell conversations apart, and keeps or locks nothing. Two conversations that begin alike are then one to
the agent: whoever cares names them. The answer says which session it was.

A memory key reaches further than a session, so only callers with an API key may choose one (decision 42).
"""

import re
from hashlib import sha256

import msgspec
from starlette.types import Scope

from trunkline.config.environment import key_variables
from trunkline.config.profiles import Profile
from trunkline.config.schema import ServerSettings
from trunkline.engine.auxiliary import is_auxiliary, is_temporary
from trunkline.model.errors import InvalidParameter, PermissionDenied
from trunkline.model.items import Message, TextPart, text_of
from trunkline.model.request import Request
from trunkline.server.exchange import Exchange, sole_header
from trunkline.server.runtime import Runtime

MEMBER = "session_id"
"""The member of a body, and of a path, that names a session."""
MAX_MEMORY_KEY = 256
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,255}")
_TEXT = msgspec.json.Decoder(str)


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of its session: its name, and the key of its agent's memory."""

    id: str | None = None
    memory_key: str | None = None


NO_SESSION = Session()
"""What a client says that names none."""


def session_of(scope: Scope, request: Request, runtime: Runtime) -> tuple[Session, Request]:
    """What path, headers and body say, and the request without what was for us alone.

    Raises InvalidParameter for a name that is too long or could be taken for a path, PermissionDenied.
    """
    profile = runtime.profile
    in_body = request.extra.get(MEMBER)
    if in_body is not None:
        extra = {name: value for name, value in request.extra.items() if name != MEMBER}
        request = msgspec.structs.replace(request, extra=extra)
    memory_key = _memory_key_of(scope, profile, runtime.settings)
    in_path = scope.get("path_params", {}).get(MEMBER)
    session_id = session_id_of(scope, runtime) if in_path is None else _permitted(in_path, runtime, param=MEMBER)
    if session_id is None and in_body is not None:
        session_id = _permitted(profile.session_prefix + _text(in_body), runtime, param=MEMBER)
    if session_id is None:
        session_id = profile.default_session
    if (
        session_id is not None
        and runtime.sessions.settings.skip_auxiliary
        and (is_auxiliary(request) or (in_path is None and is_temporary(session_id)))
    ):
        session_id = None
    return Session(id=session_id, memory_key=memory_key), request


def session_id_of(scope: Scope, runtime: Runtime) -> str | None:
    """The one that a header names; an empty one names none, as chat UIs send it before they have an id.

    Raises InvalidParameter, PermissionDenied.
    """
    name = runtime.profile.session_header
    given = sole_header(scope, name)
    return _permitted(given.decode("latin-1"), runtime, param=name) if given else None


def _permitted(session_id: str, runtime: Runtime, *, param: str) -> str:
    """A session's id as a request names it. Raises InvalidParameter; PermissionDenied where nobody may name one."""
    session_id = checked_id(session_id, param=param)
    if runtime.profile.session_needs_key and not _has_keys(runtime.settings):
        raise PermissionDenied(
            "A session can only be named where the server asks for an API key, and this one has none configured: "
            f"whoever runs it sets {_places(runtime.settings)}.",
            param=MEMBER,
        )
    return session_id


def _places(settings: ServerSettings) -> str:
    """Where an API key is set."""
    return f"{key_variables(settings.profile)}, or server.api_keys, or in a program that mounts it create_app(…, api_keys=[…])"


def checked_id(session_id: str, *, param: str) -> str:
    """A session's id as it was given. Raises InvalidParameter."""
    if _SESSION_ID.fullmatch(session_id) is None or ".." in session_id:
        raise InvalidParameter(
            f"Invalid '{param}': expected 1 to 256 letters, digits or any of . _ : @ = + - that begin with a letter or a digit "
            "and have no '..'.",
            param=param,
        )
    return session_id


def derived_id(request: Request) -> str:
    """The same for every turn of a conversation: from its first user message and the instructions before that."""
    system = [] if request.instructions is None else [request.instructions]
    said = ""
    for item in request.items:
        if type(item) is Message:
            if item.role == "user":
                said = _said(item)
                break
            if item.role != "assistant":
                system.append(_said(item))
    return "api-" + sha256("\n".join([*(system or [""]), said]).encode()).hexdigest()[:16]


def _said(message: Message) -> str:
    content = message.content
    if len(content) == 1 and type(content[0]) is TextPart:
        return content[0].text
    return text_of(content) or msgspec.json.encode(content).decode()  # an image, say


def announce(exchange: Exchange, profile: Profile, session_id: str, memory_key: str | None) -> None:
    """Has the answer say which session and which memory it was."""
    exchange.headers.append((profile.session_header.encode(), session_id.encode()))
    if memory_key is not None:
        exchange.headers.append((profile.memory_key_header.encode(), memory_key.encode()))


def _memory_key_of(scope: Scope, profile: Profile, settings: ServerSettings) -> str | None:
    given = sole_header(scope, profile.memory_key_header)
    if not given:
        return None
    name = profile.memory_key_header
    if not _has_keys(settings):
        raise PermissionDenied(
            f"'{name}' can only be used where the server asks for an API key, and this one has none configured: "
            f"whoever can reach it could choose any memory. Whoever runs it sets {_places(settings)}.",
            param=name,
        )
    try:
        key = given.decode()
    except UnicodeDecodeError:
        key = ""
    if not key.isprintable() or not key or len(key) > MAX_MEMORY_KEY:
        raise InvalidParameter(
            f"Invalid '{name}': expected 1 to {MAX_MEMORY_KEY} printable characters in UTF-8.", param=name
        )
    return key


def _has_keys(settings: ServerSettings) -> bool:
    return bool(settings.api_keys or settings.keys)


def _text(value: msgspec.Raw) -> str:
    try:
        return _TEXT.decode(value)
    except msgspec.ValidationError:
        raise InvalidParameter(
            f"Invalid type for '{MEMBER}': expected a string.", code="invalid_type", param=MEMBER
        ) from None
