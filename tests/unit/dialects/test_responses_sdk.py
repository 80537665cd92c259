"""The official SDK's own helpers, fed with this dialect's bytes through the SDK's whole reading path."""

from collections.abc import Sequence

import httpx2
import openai
import pydantic
from openai.types.responses import ResponseTextDeltaEvent

from trunkline.config.profiles import Profile
from trunkline.dialects.codec import encode_all
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.model import events as ev
from trunkline.model.turn import fold

SURFACE = ResponsesSurface(Profile(), now=lambda: 1700000009.75)
START = ev.TurnStarted("resp_1", "m", 1700000000)
END: list[ev.Event] = [ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]
SAID: list[ev.Event] = [
    ev.ItemStarted(index=0, kind="message"),
    ev.TextDelta(0, '{"city":'),
    ev.TextDelta(0, '"Oslo"}'),
    ev.ItemDone(index=0),
]
CALLED: list[ev.Event] = [
    ev.ItemStarted(index=1, kind="function_call", call_id="call_1", name="Place"),
    ev.ArgumentsDelta(1, '{"city":"Rome"}'),
    ev.ItemDone(index=1),
]


class Place(pydantic.BaseModel):
    city: str


def client(events: Sequence[ev.Event]) -> openai.OpenAI:
    """A client whose server answers every request with these events, decoded and encoded by the dialect."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = SURFACE.decode_request(request.content)
        if asked.stream:
            data = encode_all(SURFACE.encoder(asked), events)
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)
        data = SURFACE.encode_turn(fold(events), asked)
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=data)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://test/v1", http_client=http)


def test_create_gives_the_answer() -> None:
    with client([START, *SAID, *END]) as sdk:
        response = sdk.responses.create(model="m", input="Where?")
    assert response.output_text == '{"city":"Oslo"}'
    assert response.usage is not None


def test_stream_helper_follows_text_and_gives_the_final_response() -> None:
    with (
        client([START, *SAID, *CALLED, *END]) as sdk,
        sdk.responses.stream(model="m", input="Where?", text_format=Place) as stream,
    ):
        said = "".join(event.delta for event in stream if isinstance(event, ResponseTextDeltaEvent))
        final = stream.get_final_response()
    assert said == '{"city":"Oslo"}'
    assert final.output_parsed == Place(city="Oslo")
    assert [item.type for item in final.output] == ["message", "function_call"]


def test_parse_gives_typed_answers_and_arguments() -> None:
    tool = openai.pydantic_function_tool(Place)
    with client([START, *SAID, *CALLED, *END]) as sdk:
        response = sdk.responses.parse(model="m", input="Where?", text_format=Place, tools=[tool])
    assert response.output_parsed == Place(city="Oslo")
    [call] = [item for item in response.output if item.type == "function_call"]
    assert call.parsed_arguments == Place(city="Rome")


def test_an_answer_goes_back_as_input_of_the_next_turn() -> None:
    with client([START, *SAID, *CALLED, *END]) as sdk:
        first = sdk.responses.create(model="m", input="Where?")
        again = sdk.responses.create(
            model="m",
            input=[
                *[item.to_dict() for item in first.output],  # type: ignore[list-item]
                {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            ],
        )
    assert again.status == "completed"
