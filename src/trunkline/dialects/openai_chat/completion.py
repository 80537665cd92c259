"""A whole answer as one `chat.completion` object."""

from itertools import pairwise

import msgspec

from trunkline.config.profiles import Profile
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.openai_chat.messages import write_call
from trunkline.model import events as ev
from trunkline.model.items import FunctionCall, Message, Reasoning, RefusalPart, TextPart
from trunkline.model.request import Request
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import ChoiceEnd, Turn, TurnItem
from trunkline.model.usage import Usage


def write_completion(turn: Turn, request: Request, profile: Profile) -> dict[str, object]:
    by_choice: dict[int, list[TurnItem]] = {choice.index: [] for choice in turn.choices}
    for item in turn.items:
        by_choice.setdefault(item.choice, []).append(item)
    completion: dict[str, object] = {
        "id": turn.turn_id,
        "object": "chat.completion",
        "created": turn.created_at,
        "model": request.model or turn.model,
        "choices": [
            _whole_choice(choice, by_choice[choice.index], empty=profile.empty_answer) for choice in turn.choices
        ],
    }
    if turn.usage is not None or profile.chat_usage != "known":
        completion["usage"] = parts.write_usage(turn.usage or Usage())
    extras = parts.join_extensions(turn.extensions)
    if ev.OWN in extras:
        extras[profile.own_name] = extras.pop(ev.OWN)
    completion.update(extras)
    return completion


def _whole_choice(choice: ChoiceEnd, items: list[TurnItem], *, empty: str) -> dict[str, object]:
    text: list[str] = []
    refusal: list[str] = []
    reasoning: list[str] = []
    annotations: list[msgspec.Raw] = []
    calls: list[dict[str, object]] = []
    logprobs: list[TokenLogprob] = []
    refused_logprobs: list[TokenLogprob] = []
    extensions: list[ev.Extension] = []
    for turn_item in items:
        match turn_item.item:
            case Message(content=content):
                ends = (*turn_item.logprob_ends, len(turn_item.logprobs))
                for part, (start, end) in zip(content, pairwise((0, *ends)), strict=False):
                    if isinstance(part, TextPart):
                        text.append(part.text)
                        annotations.extend(filter(None, map(parts.write_annotation, part.annotations)))
                        logprobs.extend(turn_item.logprobs[start:end])
                    elif isinstance(part, RefusalPart):
                        refusal.append(part.text)
                        refused_logprobs.extend(turn_item.logprobs[start:end])
                if not content:  # tokens whose text never came
                    logprobs.extend(turn_item.logprobs)
            case Reasoning():
                reasoning.append(turn_item.item.text)
                logprobs.extend(turn_item.logprobs)
            case FunctionCall(hosted=False):
                calls.append(write_call(turn_item.item))
                logprobs.extend(turn_item.logprobs)
            case _:
                continue
        extensions.extend(turn_item.extensions)
    extras = parts.join_extensions(extensions)
    said = bool(calls or refusal) or not extras.keys().isdisjoint(parts.SAID)
    message: dict[str, object] = {
        "role": "assistant",
        "content": "".join(text) if any(text) else None if said else empty,
        "refusal": "".join(refusal) if refusal else None,
    }
    if any(reasoning):
        message["reasoning_content"] = "".join(reasoning)
    if annotations:
        message["annotations"] = annotations
    if calls:
        message["tool_calls"] = calls
    message.update(extras)
    return {
        "index": choice.index,
        "message": message,
        "logprobs": {
            "content": parts.write_logprobs(tuple(logprobs)) if logprobs else None,
            "refusal": parts.write_logprobs(tuple(refused_logprobs)) if refused_logprobs else None,
        }
        if logprobs or refused_logprobs
        else None,
        "finish_reason": choice.finish_reason,
        **parts.join_extensions(choice.extensions),
    }
