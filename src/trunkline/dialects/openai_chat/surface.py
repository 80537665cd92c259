"""The dialect in front: requests in, answers out."""

from trunkline.config.profiles import Profile
from trunkline.dialects.codec import EVENT_STREAM
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.openai_chat.completion import write_completion
from trunkline.dialects.openai_chat.decode_request import decode_request
from trunkline.dialects.openai_chat.encoder import ChatEncoder
from trunkline.dialects.openai_chat.stored import KeepingChatEncoder
from trunkline.dialects.writing import write_json
from trunkline.model.errors import ErrorInfo, InvalidParameter
from trunkline.model.items import ImagePart, Message
from trunkline.model.request import Request, ToolEvents
from trunkline.model.turn import Turn

NAME = "openai_chat"


class ChatSurface:
    """The codec for chat completion clients, with a profile's wire settings. `tool_events`: in place of the profile's."""

    name = NAME
    framing = EVENT_STREAM

    def __init__(self, profile: Profile, *, tool_events: ToolEvents | None = None) -> None:
        self._profile = profile
        self.own_name = profile.own_name
        self._tool_events = tool_events or profile.tool_events

    def decode_request(self, body: bytes) -> Request:
        request = decode_request(body)
        if self._profile.single_message:
            _check_single(request)
        if not self._profile.remote_images:
            _check_images(request)
        return request

    def encoder(self, request: Request) -> "ChatEncoder | KeepingChatEncoder":
        encoder = ChatEncoder(request, self._profile, tool_events=request.tool_events or self._tool_events)
        if not request.store:
            return encoder
        return KeepingChatEncoder(encoder, write=lambda turn: self.encode_turn(turn, request))

    def encode_turn(self, turn: Turn, request: Request) -> bytes:
        return write_json(write_completion(turn, request, self._profile), spaced=self._profile.json_spacing)

    def encode_error(self, error: ErrorInfo) -> bytes:
        if self._profile.error_style == "plain":
            return write_json({"error": error.type, "detail": error.message}, spaced=self._profile.json_spacing)
        return write_json(parts.write_error(error, own_name=self.own_name), spaced=self._profile.json_spacing)

    def shows_approvals(self, request: Request) -> bool:
        """Whether its stream shows what an agent asks."""
        return (request.tool_events or self._tool_events) != "off"


def _check_single(request: Request) -> None:
    items = request.items
    if len(items) != 1 or not isinstance(items[0], Message) or items[0].role != "user":
        raise InvalidParameter(
            "Only a single user message is supported; the rest of the conversation is in the agent's own session",
            param="messages",
        )


def _check_images(request: Request) -> None:
    for item, place in zip(request.items, request.places, strict=True):
        for position, part in enumerate(item.content if isinstance(item, Message) else ()):
            if isinstance(part, ImagePart) and not (part.url or "").startswith("data:"):
                raise InvalidParameter(
                    "Remote image URLs are not supported; send the image as a data: URL or in a form",
                    param=f"{place}.content[{position}].image_url.url",
                )
