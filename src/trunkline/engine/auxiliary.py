"""Requests that a chat UI makes for itself: a title for the conversation, tags, what might be asked next.

They go to the same model and name the same session, and are no part of the conversation. What they are is said nowhere but in their
text, so they are known by it: one user message alone that begins as below and holds the rest, or, where the UI has its own copy of
the conversation summed up, the last message of that copy. The texts are those that the programs send unless their administrator has
written others.
"""

from trunkline.model.items import Message, text_of
from trunkline.model.request import Request

RULES: tuple[tuple[str, str], ...] = (
    # Open WebUI: titles, tags, follow-ups, search queries, image prompts, completions of what is being typed; a long chat made
    # shorter; what to remember of a turn. https://github.com/open-webui/open-webui/blob/main/backend/open_webui/config.py
    ("### Task:\n", "<chat_history>"),
    ("### Task:\nSummarize the conversation history that will be compacted out of the active chat context.", ""),
    ("Review the completed conversation turn and decide whether long-term memory should change.", ""),
    ("Create a concise, 3-5 word ", "<chat_history>"),
    ("Your task is to reflect the speaker's likely facial expression through a fitting emoji.", ""),
    ("You have been provided with a set of responses from various models to the latest user query: ", ""),
    # LibreChat: titles. https://github.com/danny-avila/agents/blob/main/src/utils/title.ts
    ("Analyze this conversation and provide:\n1. The detected language of the conversation\n", ""),
    ("Provide a concise, 5-word-or-less title for the conversation, using title case conventions.", ""),
    ("Write a concise title for this conversation in the detected language.", ""),
)
"""How the text begins, and what it has in it."""
ABOUT_DOCUMENTS = "### Task:\nRespond to the user query using the provided context"
"""So begins what Open WebUI makes of a user's own question when it has found documents, and these may say anything."""
SUMMARIES = (
    # LibreChat, where a conversation outgrows its context: all but the newest turns, and this behind them.
    # https://github.com/danny-avila/agents/blob/main/src/summarization/node.ts
    "Hold on, before you continue I need you to write me a checkpoint of everything so far.",
    "Hold on again, update your checkpoint. Merge the new messages into your existing checkpoint",
)
"""How the last message of a conversation begins that a UI has made shorter for itself."""
TEMPORARY = ("temporary:", "local:")
"""So begins what Open WebUI gives as the id of a chat that is kept nowhere, the second before 0.12."""


def is_temporary(session_id: str) -> bool:
    """Whether it names no conversation but the browser's connection: the next temporary chat has the same."""
    return session_id.startswith(TEMPORARY)


def is_auxiliary(request: Request) -> bool:
    """Whether no user has asked this."""
    last = request.items[-1] if request.items else None
    if isinstance(last, Message) and last.role == "user" and text_of(last.content).startswith(SUMMARIES):
        return True
    asked: Message | None = None
    for item in request.items:
        if not isinstance(item, Message) or item.role == "assistant":
            return False
        if item.role == "user":
            if asked is not None:
                return False
            asked = item
    if asked is None:
        return False
    text = text_of(asked.content)
    if text.startswith(ABOUT_DOCUMENTS):
        return False
    return any(text.startswith(beginning) and holds in text for beginning, holds in RULES)
