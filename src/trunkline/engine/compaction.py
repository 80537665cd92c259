"""A long conversation made shorter: all user messages, and one item for everything else.

A backend whose upstream does this is left to it. For every other kind, the model is asked for a summary. It gets the conversation
as one text in one message: then no template, tool declaration or `history` setting is in the way, and it does not go on with the
conversation instead of describing it. The state stays with the client: what comes back is the input of its next request, and
nothing of it is stored.
"""

from collections.abc import Iterator, Sequence

import msgspec

from trunkline.dialects.openai_responses.compaction import COMPACTION, with_summaries, write_summary
from trunkline.dialects.openai_responses.mcp_calls import with_tool_runs
from trunkline.dialects.openai_responses.write_items import derived_id, input_items
from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.call import Call
from trunkline.engine.gateway import Gateway
from trunkline.engine.truncation import ROOM_TO_ANSWER
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, InvalidParameter, TurnFailure, UnsupportedParameter
from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Message,
    OpaqueItem,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    text_of,
)
from trunkline.model.request import Request
from trunkline.model.turn import Fold, Turn
from trunkline.model.usage import Usage
from trunkline.ports.backend import Compacted

PROMPT = """\
This is a conversation between a user and an assistant:

----------
{conversation}
----------

Summarise it for an assistant that has to go on with it and will see nothing else of it but the user's messages. Say what the user \
wants and in which way, what was found out, decided and done, which tool results still matter (with exact names, numbers and \
paths), and what is left to do. Write only the summary, as briefly as that allows."""

MAX_TOKENS = 4096
"""Of a summary: what is longer shortens nothing, and a small model may never come to an end. Less in a short context."""

_KEPT = ("service_tier", "prompt_cache_key", "reasoning_effort", "user", "safety_identifier")
"""Parameters that are about who asks and how, not about the conversation."""

_SPEAKERS = {"system": "Instructions", "developer": "Instructions", "user": "User", "assistant": "Assistant"}


async def compact(gateway: Gateway, call: Call) -> Compacted:
    """The items that stand for the call's conversation from now on. Raises as answering it would."""
    if not call.request.items:
        raise InvalidParameter("There is nothing to compact: give 'input' or 'previous_response_id'.", param="input")
    native = await gateway.compact(call)
    if native is not None:
        return native
    summary, usage = await _summarised(gateway, call)
    call.outcome.ignored += _about_answering(call.request)
    users = [item for item in call.request.items if isinstance(item, Message) and item.role == "user"]
    items: list[object] = [*input_items(users, response_id=call.turn_id)]
    compaction_id = derived_id(COMPACTION, call.turn_id, str(len(users)))
    items.append({"id": compaction_id, "type": COMPACTION, "encrypted_content": write_summary(summary)})
    return Compacted(tuple([msgspec.Raw(msgspec.json.encode(item)) for item in items]), usage)


async def _summarised(gateway: Gateway, call: Call) -> tuple[str, Usage]:
    request = call.request
    text = PROMPT.format(conversation="\n\n".join(_lines(with_tool_runs(with_summaries(request), others=True))))
    context_tokens = await gateway.context_tokens(request.model or "")
    at_most = min(MAX_TOKENS, (context_tokens or MAX_TOKENS * ROOM_TO_ANSWER) // ROOM_TO_ANSWER)
    asking = Request(
        model=request.model,
        items=(Message(role="user", content=(TextPart(text),), as_string=True),),
        places=("input",),
        max_output_tokens=at_most,  # not in `asked`: who cannot be bounded may still answer
        asked={name: wire for name, wire in request.asked.items() if name in _KEPT},
        **{name: getattr(request, name) for name in _KEPT},
    )
    turn = await _turn(gateway, msgspec.structs.replace(call, request=asking, body=None, own_items=()))
    if isinstance(turn.terminal, ev.TurnFailed):
        raise TurnFailure(turn.terminal.error)
    said = [text_of(one.item.content) for one in turn.items if isinstance(one.item, Message) and one.choice == 0]
    summary = "".join(said).strip()
    if not summary or not isinstance(turn.terminal, ev.TurnCompleted):
        what = f"did not end its summary within {at_most} tokens" if summary else "gave no summary"
        raise BackendError(
            f"model {request.model!r} {what}, so nothing was compacted; go on with the conversation as it is, or compact "
            "it with another model, or in shorter pieces",
            code="compaction_failed",
        )
    return summary, turn.usage or Usage()


def _about_answering(request: Request) -> tuple[str, ...]:
    """Names of what only an answer to the conversation could have honoured."""
    asked = [wire for name, wire in request.asked.items() if name not in _KEPT]
    return (*asked, *[name for name in request.extra if name not in request.asked])


async def _turn(gateway: Gateway, call: Call) -> Turn:
    answer = await gateway.answer(call)
    try:
        folding, size = Fold(), AnswerSize()
        async for batch in answer.event_batches():
            for event in batch:
                folding.feed(event)
            size.add(batch)
        return folding.turn()
    finally:
        await answer.aclose()


def _lines(request: Request) -> Iterator[str]:
    """The conversation, one speaker after the other. Raises UnsupportedParameter for what no model here can read."""
    if request.instructions is not None:
        yield f"Instructions: {request.instructions}"
    names: dict[str, str] = {}  # of what was called last by that id
    for position, item in enumerate(request.items):
        match item:
            case Message():
                yield f"{_SPEAKERS[item.role]}: {_shown(item.content)}"
            case FunctionCall():
                names[item.call_id] = item.name
                yield f"Assistant called {item.name} with {item.arguments}"
            case FunctionCallOutput():
                name = names.get(item.call_id) or item.name or "Tool"
                yield f"{name} returned: {_shown(item.content)}"
            case Reasoning():
                pass  # its results are in what was said afterwards
            case OpaqueItem():
                raise UnsupportedParameter(
                    f"model {request.model!r} cannot read an item of type '{item.wire_type[:100]}'",
                    param=request.places[position],
                )


def _shown(content: Sequence[Part]) -> str:
    return "\n".join([_shown_part(part) for part in content])


def _shown_part(part: Part) -> str:
    match part:
        case TextPart() | RefusalPart():
            return part.text
        case ImagePart():
            return "[image]"
        case AudioPart():
            return "[audio]"
        case FilePart():
            return f"[file {part.filename}]" if part.filename else "[file]"
        case _:
            return f"[{part.wire_type[:100]}]"
