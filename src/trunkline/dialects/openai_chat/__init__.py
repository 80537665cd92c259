"""OpenAI Chat Completions, in both roles.

What the dialect cannot express, and what becomes of it:
- item ids, and where one message item ends and the next begins: adjacent text of one choice is one message;
- an item without content, and `status` of items: left out;
- hosted tool runs, their progress and approvals: left out of the answer (they are no tool calls for the client);
- encrypted reasoning and reasoning summaries: left out; reasoning text travels as `reasoning_content`
  (`reasoning` is read too);
- citations of files: left out, chat has only those of URLs;
- token ids without log probabilities: left out; ids beside log probabilities travel as `id` in each entry, as llama.cpp
  does;
- where in a text an annotation came: it comes at the end of its message; those of a second message of a choice get an
  `index`;
- unknown keys inside a request's messages and parts, where the request is written anew instead of forwarded: left out;
- in front, errors carry `message, type, param, code`; retryability does not travel.

Unknown keys of chunks, choices and messages become Extension events and are written back where they stood.
"""

from trunkline.dialects.openai_chat.backend import ChatBackend
from trunkline.dialects.openai_chat.encode_request import EXPRESSIBLE
from trunkline.dialects.openai_chat.surface import ChatSurface

NAME = "openai_chat"

__all__ = ["EXPRESSIBLE", "NAME", "ChatBackend", "ChatSurface"]
