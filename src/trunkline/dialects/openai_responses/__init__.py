"""OpenAI Responses, in both roles.

What the dialect cannot express, and what becomes of it:
- choices beyond the first, and items of other dialects: left out of the answer;
- who runs a tool: a hosted run is a `function_call` item and its `function_call_output`, without progress and approvals. A call is
  read as hosted where its name is not among the tools that the request declares. A setting makes each run one `mcp_call`, which
  says who ran it and whether it failed, and reads back as an item of the upstream's own;
- where one text of a message ends and the next begins: adjacent texts are one part; reasoning's texts are one too;
- tokens of reasoning, refusals and arguments, token ids without log probabilities: left out. Log probabilities are shown where they
  were asked for, always with bytes; an `id` travels beside them;
- a summary's empty parts, and a way back to an earlier one: parts count up and each has text;
- why an answer was cut, where the API has no word for it: there are no details, which reads back as `cancelled`;
- of an error, its code (one of the official SDK's or `worker_lost`) and message travel in an answer, not status or retryability;
- usage that no backend reported: zeros in an answer that has an end;
- to an upstream: ids of items of the history, but for plain reasoning; what names state; a summary of reasoning that is not
  encrypted; names of authors.

An answer that is cut closes its open items first, as `incomplete`, so it reads back with these items closed. Events that
the union cannot name (hosted tools at work, whatever comes later) become Extension events whose name is the event's, and are
written back with numbers of ours. Unknown members of objects and items stay where they stood.
"""

from trunkline.dialects.openai_responses.backend import ResponsesBackend
from trunkline.dialects.openai_responses.encode_request import EXPRESSIBLE
from trunkline.dialects.openai_responses.read_items import NAME
from trunkline.dialects.openai_responses.surface import ResponsesSurface

__all__ = ["EXPRESSIBLE", "NAME", "ResponsesBackend", "ResponsesSurface"]
