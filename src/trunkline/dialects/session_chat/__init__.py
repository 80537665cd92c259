"""Talking in a session that is there already: one message in, and out come events that say what is done, or one message.

It is how hermes-agent's own clients talk to its API server. What a message may consist of is what a chat message may, so a request
becomes that of a chat completion and is read there, by the codec that this one is given. The answer has a form of its own: events
with a name, a number and a time, which all say whose they are.
"""

from trunkline.dialects.session_chat.messages import SessionMessage, messages_of, stored_message
from trunkline.dialects.session_chat.surface import SessionChatSurface

__all__ = ["SessionChatSurface", "SessionMessage", "messages_of", "stored_message"]
