"""The dialect in front, for one exchange: it knows the session. Its events call themselves by the turn, `resp_…`, whose run is
called `run_…`, by which questions are answered.

    run.started  message.started
    assistant.delta  tool.progress  tool.started  tool.completed  tool.failed  approval.request  approval.responded
    then either  assistant.completed  run.completed   or  error
    done

`tool.progress` is the thinking, of a tool named `_thinking`. What fails before the stream has begun is an HTTP status.
"""

from collections.abc import Callable

import msgspec

from trunkline.config.profiles import Profile
from trunkline.dialects.codec import EVENT_STREAM, SurfaceCodec
from trunkline.dialects.reading import NOT_JSON
from trunkline.dialects.session_chat.messages import content_of, messages_of
from trunkline.dialects.session_chat.request import chat_body
from trunkline.dialects.writing import write_json
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo, InvalidParameter, RequestError
from trunkline.model.items import FunctionCall, Message, RefusalPart, TextPart
from trunkline.model.request import Request
from trunkline.model.turn import Fold, Turn
from trunkline.model.usage import Usage
from trunkline.wire.sse import encode_event

NAME = "session_chat"
THINKING = "_thinking"
_Members = dict[str, object]
_encode = msgspec.json.encode


class SessionChatSurface:
    """The codec of one exchange.

    Args:
        chat: reads what a message may consist of, and writes errors.
        session_id: whose turn it is; `system`: what its instructions are.
        now: unix seconds.
    """

    name = NAME
    framing = EVENT_STREAM

    def __init__(
        self,
        chat: SurfaceCodec,
        profile: Profile,
        *,
        session_id: str,
        system: str | None,
        stream: bool,
        now: Callable[[], float],
    ) -> None:
        self.own_name = profile.own_name
        self._spaced = profile.json_spacing
        self._chat = chat
        self._session_id = session_id
        self._system = system
        self._stream = stream
        self._now = now

    def decode_request(self, body: bytes) -> Request:
        chat = chat_body(body, system=self._system, stream=self._stream)
        try:
            request = self._chat.decode_request(chat.body)
        except RequestError as error:  # the client never saw the list that its message was put into
            message, param = error.message, error.param
            for position, place in enumerate(chat.places):
                wire = f"messages[{position}]"
                message = message.replace(f"{wire}.content", place).replace(wire, place)
                param = param and param.replace(f"{wire}.content", place).replace(wire, place)
            raise InvalidParameter(message, code=error.code, param=param) from None
        return msgspec.structs.replace(request, places=chat.places)

    def encoder(self, request: Request) -> "SessionStream":
        return SessionStream(request, session_id=self._session_id, now=self._now, spaced=self._spaced)

    def encode_turn(self, turn: Turn, request: Request) -> bytes:
        written: _Members = {
            "object": f"{self.own_name}.session.chat.completion",
            "session_id": self._session_id,
            "message": {"role": "assistant", "content": text_of_turn(turn)},
            "usage": _usage(turn),
        }
        state = _state(turn)
        if state:
            written[self.own_name] = state
        return write_json(written, spaced=self._spaced)

    def encode_error(self, error: ErrorInfo) -> bytes:
        return self._chat.encode_error(error)


class SessionStream:
    """Events of one answer to the bytes of its stream."""

    def __init__(self, request: Request, *, session_id: str, now: Callable[[], float], spaced: bool) -> None:
        self._message_id = ""
        self._whose = {"session_id": session_id}
        self._request = request
        self._now = now
        self._spaced = spaced
        self._seq = 0
        self._folding = Fold()
        self._shown: set[int] = set()  # items of the first choice: there is one message
        self._calls: dict[str, int] = {}  # a tool's call and its item
        self._running: set[str] = set()

    def feed(self, event: ev.Event) -> bytes:
        self._folding.feed(event)
        match event:
            case ev.TextDelta() | ev.RefusalDelta():
                return self._frame("assistant.delta", delta=event.text) if event.index in self._shown else b""
            case ev.ReasoningDelta():
                if event.index not in self._shown:
                    return b""
                return self._frame("tool.progress", tool_name=THINKING, delta=event.text)
            case ev.TurnStarted():
                return self._started(event.turn_id)
            case ev.ItemStarted(choice=0):
                self._shown.add(event.index)
                if event.kind == "function_call" and event.call_id is not None:
                    self._calls[event.call_id] = event.index
                return b""
            case ev.ToolProgress():
                return self._tool(event)
            case ev.ApprovalRequested():
                asked = {"call_id": event.call_id, "tool": event.tool, "text": event.text, "choices": event.choices}
                return self._frame("approval.request", **asked, command=event.text)
            case ev.ApprovalResolved():
                return self._frame("approval.responded", call_id=event.call_id, choice=event.choice, resolved=1)
            case ev.TurnCompleted() | ev.TurnIncomplete():
                return self._ended()
            case ev.TurnFailed(error=error):
                said = {"message": error.message, "type": error.type, "code": error.code}
                return self._frame("error", **said) + self._frame("done")
            case ev.TurnCancelled():
                return self._frame("error", message="the answer was cancelled", code="cancelled") + self._frame("done")
            case _:
                return b""

    def _started(self, turn_id: str) -> bytes:
        unique = turn_id.rpartition("_")[2]
        self._message_id = f"msg_{unique}"
        self._whose["run_id"] = f"run_{unique}"
        asked = [item for item in self._request.items if isinstance(item, Message) and item.role == "user"][-1:]
        content = content_of(asked[0].content) if asked else ""
        return self._frame("run.started", user_message={"role": "user", "content": content}) + self._frame(
            "message.started", message={"id": self._message_id, "role": "assistant"}
        )

    def _tool(self, event: ev.ToolProgress) -> bytes:
        """Not of a tool of the agent's own affairs, and no end of what never began."""
        if event.name.startswith("_"):
            return b""
        members: _Members = {"tool_name": event.name, "preview": event.label, "args": None, "call_id": event.call_id}
        if event.status == "running":
            self._running.add(event.call_id)
            return self._frame("tool.started", **{**members, "args": self._arguments(event.call_id)})
        if event.call_id not in self._running:
            return b""
        self._running.discard(event.call_id)
        return self._frame("tool.failed" if event.failed else "tool.completed", **members)

    def _arguments(self, call_id: str) -> object:
        """As JSON, once they are whole."""
        index = self._calls.get(call_id)
        if index is None or index in self._folding.open_indexes:
            return None
        item = self._folding.closed_item(index).item
        try:
            return msgspec.json.decode(item.arguments) if isinstance(item, FunctionCall) else None
        except NOT_JSON:
            return None

    def _ended(self) -> bytes:
        turn = self._folding.turn()
        state = _state(turn)
        completed = state.get("completed", isinstance(turn.terminal, ev.TurnCompleted))
        went = {name: state[name] for name in ("error", "error_code") if name in state}
        said = messages_of([one.item for one in turn.items if one.choice == 0])
        return (
            self._frame(
                "assistant.completed",
                content=text_of_turn(turn),
                completed=completed,
                partial=state.get("partial", not completed),
                interrupted=False,
                **went,
            )
            + self._frame(
                "run.completed",
                completed=completed,
                messages=[one.message for one in said],
                usage=_usage(turn),
                **went,
            )
            + self._frame("done")
        )

    def _frame(self, name: str, **members: object) -> bytes:
        self._seq += 1
        own = {} if name in _OF_THE_RUN else {"message_id": self._message_id}
        written = {**own, **members, **self._whose, "seq": self._seq, "ts": self._now()}
        data = write_json(written, spaced=self._spaced)
        return encode_event(data, event=name)


def text_of_turn(turn: Turn) -> str:
    """What its message says: every text once, as the deltas were."""
    parts = [
        part for one in turn.items if one.choice == 0 and isinstance(one.item, Message) for part in one.item.content
    ]
    return "".join([part.text for part in parts if isinstance(part, TextPart | RefusalPart)])


def _usage(turn: Turn) -> _Members:
    usage = turn.usage or Usage()
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def _state(turn: Turn) -> _Members:
    """How an agent says its run went, where that is not just well."""
    for extension in turn.extensions:
        state = msgspec.json.decode(extension.payload) if extension.name == ev.OWN else None
        if isinstance(state, dict):
            return state
    return {}


_OF_THE_RUN = frozenset({"run.started", "message.started", "error", "done"})
