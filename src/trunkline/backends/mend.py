"""What a relayed chunk must say in the dialect's own words, though its upstream has others.

Only members that clients act on are touched, in place, so that everything else an upstream adds survives: Gemini's thought
signatures, for one, travel as unknown keys of its tool calls and must come back unchanged.
"""

import msgspec

from trunkline.dialects.decoding import is_json
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import BackendError, BackendProtocolError
from trunkline.model.ids import Entropy, new_id


def mend_reason(choice: Object, reason: str) -> bool:
    """Gives a choice a finish reason that clients know. Raises BackendError where the upstream's own one says that it failed."""
    known = parts.FINISH_REASONS.get(reason, "stop")
    if known == "error":
        raise BackendError(f"the upstream ended its answer with finish reason '{reason}'")
    if known == reason:
        return False
    choice["finish_reason"] = known
    if reason not in parts.FINISH_REASONS:
        choice["native_finish_reason"] = reason
    return True


def mend_message(message: Json, entropy: Entropy) -> bool:
    """Gives the tool calls of a whole message what clients expect of each: an id, a type, arguments as text."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    mended = False
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, dict):
            raise BackendProtocolError("upstream sent a tool call that is not an object")
        if not call.get("id"):
            call["id"], mended = new_id("call_", entropy), True
        if not call.get("type"):
            call["type"], mended = "function", True
        mended = _mend_arguments(call.get("function")) or mended
    return mended


def _mend_arguments(function: Json) -> bool:
    """Ollama's habit: arguments as an object."""
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return False
    function["arguments"] = msgspec.json.encode(function["arguments"]).decode()
    return True


class Calls:
    """The tool calls of one choice, as they stream. Clients join entries by `index` and append every string to the last.

    Gemini gives all calls index 0 or none at all, and no ids; some servers repeat id and name in every piece; Ollama once
    sent arguments as an object.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._index = -1  # of the newest call, as the client sees it
        self._wire_index = -1  # as the upstream sees it
        self._id: str | None = None
        self._arguments: list[str] = []

    def mend(self, calls: list[Json]) -> bool:
        """Whether anything had to be changed."""
        mended = False
        for call in calls:
            if not isinstance(call, dict):
                raise BackendProtocolError("upstream sent a tool call that is not an object")
            mended = self._mend(call) or mended
        return mended

    def _mend(self, call: Object) -> bool:
        wire, call_id = call.get("index"), call.get("id")
        inner = call.get("custom" if call.get("type") == "custom" else "function")
        function: Object = inner if isinstance(inner, dict) else {}
        mended = _mend_arguments(function)
        index = wire if type(wire) is int else max(self._wire_index, 0)
        if index < self._wire_index:
            raise BackendProtocolError(
                f"upstream sent arguments for tool call {index} after it had gone on to something else"
            )
        if index > self._wire_index or self._begins_another(call_id, function.get("name")):
            self._index, self._wire_index = self._index + 1, index
            self._id = call_id if isinstance(call_id, str) and call_id else None
            self._arguments = []
            if self._id is None:
                call["id"], mended = new_id("call_", self._entropy), True
            if not call.get("type"):  # Mistral
                call["type"], mended = "function", True
        else:
            for owner, key in ((call, "id"), (function, "name")):
                if owner.get(key):
                    del owner[key]
                    mended = True
        self._arguments.append(str(function.get("arguments") or ""))
        if wire != self._index:
            call["index"], mended = self._index, True
        return mended

    def _begins_another(self, call_id: Json, name: Json) -> bool:
        """Whether an entry under the newest call's index is another call: it has a name, and another id or, where there are no
        ids, the arguments before it are complete."""
        if not isinstance(name, str) or not name:
            return False
        if (isinstance(call_id, str) and call_id) or self._id is not None:
            return bool(call_id) and call_id != self._id
        return is_json("".join(self._arguments))
