"""Ollama's own API, in both roles: POST /api/chat behind and in front, POST /api/generate in front, and the small bodies beside.

What the dialect cannot express, and what becomes of it:
- the turn's id, item ids, and where one message item ends and the next begins: adjacent text is one message;
- choices but the first, items without content, `status` of items, token ids without log probabilities: left out;
- hosted tool runs, their progress and approvals, annotations, summaries, encrypted reasoning: left out of the answer;
- refusals: text like any other;
- pieces of arguments: a call is written once it is whole. Arguments that are not a JSON object end the answer with an error,
  unless a limit has cut it: then the call is left out and the reason says so;
- the finish reason `tool_calls`: it is `stop` on the wire, and `tool_calls` again where calls came before it;
- details of usage, and fractions of seconds in times;
- keys of a choice: they stand in the line, and come back as keys of the turn; `native_finish_reason` is `done_reason`;
- in a request: the order of text and images in a message, image details and addresses (refused), `strict` of tools and schemas, the
  name of a schema, custom tools (refused), every tool choice but `auto` and `none`;
- errors are one text: type, code and status do not travel in a stream.

Unknown keys of lines and messages become Extension events and are written back where they stood; the durations that a
backend measured are among them.
"""

from trunkline.dialects.ollama_chat.backend import OllamaBackend
from trunkline.dialects.ollama_chat.decode_request import asks_to_load
from trunkline.dialects.ollama_chat.encode_request import EXPRESSIBLE
from trunkline.dialects.ollama_chat.surface import OllamaChatSurface, OllamaGenerateSurface

NAME = "ollama_chat"

__all__ = ["EXPRESSIBLE", "NAME", "OllamaBackend", "OllamaChatSurface", "OllamaGenerateSurface", "asks_to_load"]
