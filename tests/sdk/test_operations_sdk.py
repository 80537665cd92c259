"""The official Python SDK beside chat: embeddings, text completions, speech, transcription, images, moderation."""

from collections.abc import AsyncIterator

import pytest
from openai import APIConnectionError, AsyncOpenAI, BadRequestError

from tests.fakes.operations import SOUND, SUBTITLES, OperationsUpstream, form_of, operations_upstream, vector
from tests.fakes.upstream import Do, answer
from tests.serving import Serving, serving

TOML = """
[server]
api_keys = ["sk-test"]
[backends.lab]
type = "http"
endpoints = ["{url}"]
api_key = "sk-lab"
[[models]]
name = "small"
routes = [{{ backend = "lab", model = "embedder" }}]
[[models]]
name = "text"
routes = [{{ backend = "lab", model = "writer" }}]
[[models]]
name = "speech"
routes = [{{ backend = "lab", model = "voice" }}]
[[models]]
name = "hearing"
routes = [{{ backend = "lab", model = "ears" }}]
[[models]]
name = "art"
routes = [{{ backend = "lab", model = "painter" }}]
[[models]]
name = "safety"
routes = [{{ backend = "lab", model = "guard" }}]
"""


@pytest.fixture
async def lab() -> AsyncIterator[OperationsUpstream]:
    async with operations_upstream() as made:
        yield made


@pytest.fixture
async def server(lab: OperationsUpstream) -> AsyncIterator[Serving]:
    async with serving(TOML.format(url=lab.url)) as served:
        yield served


async def test_embeddings(client: AsyncOpenAI, lab: OperationsUpstream) -> None:
    made = await client.embeddings.create(model="small", input=["cat", "horses"])
    assert [one.embedding for one in made.data] == [vector("cat"), vector("horses")]
    assert made.model == "small"
    assert made.usage.prompt_tokens == 2
    sent = lab.posts[0].json()
    assert sent == {"model": "embedder", "input": ["cat", "horses"], "encoding_format": "base64"}
    assert lab.posts[0].headers["authorization"] == "Bearer sk-lab"
    plain = await client.embeddings.create(model="small", input=[1, 2, 3], encoding_format="float", dimensions=3)
    assert plain.data[0].embedding == vector([1, 2, 3])
    assert lab.posts[1].json()["dimensions"] == 3


async def test_completions(client: AsyncOpenAI, server: Serving) -> None:
    whole = await client.completions.create(model="text", prompt="Once upon a time", max_tokens=5)
    assert (whole.model, whole.choices[0].text) == ("text", "Once upon a time and so on")
    assert whole.usage is not None
    assert whole.usage.total_tokens == 7
    stream = await client.completions.create(
        model="text", prompt="Once", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Onceandsoon"
    assert {chunk.model for chunk in chunks} == {"text"}
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].usage is not None
    rows = (await server.get("/v1/usage", headers={"authorization": "Bearer sk-test"})).json()["data"]
    assert sum(row["input_tokens"] for row in rows if row["model"] == "text") == 10


async def test_speech(client: AsyncOpenAI, lab: OperationsUpstream) -> None:
    spoken = await client.audio.speech.create(model="speech", voice="alloy", input="Good morning")
    assert await spoken.aread() == SOUND
    assert spoken.response.headers["content-type"] == "audio/mpeg"
    assert lab.posts[0].json()["model"] == "voice"
    async with client.audio.speech.with_streaming_response.create(model="speech", voice="alloy", input="x") as streamed:
        assert b"".join([piece async for piece in streamed.iter_bytes(1000)]) == SOUND


async def test_speech_that_breaks_off_is_not_taken_for_whole(client: AsyncOpenAI, lab: OperationsUpstream) -> None:
    whole = answer(SOUND, kind="audio/mpeg")
    lab.plan([whole[:-1000], Do.RESET])
    with pytest.raises(APIConnectionError):
        await client.audio.speech.create(model="speech", voice="alloy", input="Good morning")


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_transcription(client: AsyncOpenAI, lab: OperationsUpstream, size: int) -> None:
    recording = bytes(range(256)) * (size // 256) + b"\r\n--x"[: size % 5]
    text = await client.audio.transcriptions.create(
        model="hearing", file=("a.wav", recording, "audio/wav"), language="en", temperature=0
    )
    assert text.text == f"Good morning in {len(recording)} bytes"
    fields = form_of(lab.posts[0])
    assert fields["file"] == recording
    assert (fields["model"], fields["language"]) == (b"ears", b"en")


async def test_transcription_in_other_forms(client: AsyncOpenAI) -> None:
    subtitles = await client.audio.transcriptions.create(
        model="hearing", file=("a.wav", b"RIFF"), response_format="srt"
    )
    assert str(subtitles).strip('"').encode() == SUBTITLES
    stream = await client.audio.transcriptions.create(model="hearing", file=("a.wav", b"RIFF"), stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    with pytest.deprecated_call():
        translated = await client.audio.translations.create(  # type: ignore[deprecated]  # and still served
            model="hearing", file=("a.wav", b"RIFF")
        )
    assert translated.text == "Good morning in 4 bytes"


async def test_images(client: AsyncOpenAI, lab: OperationsUpstream) -> None:
    made = await client.images.generate(model="art", prompt="a cat", size="1024x1024", quality="low")
    assert made.data is not None
    assert made.data[0].b64_json is not None
    assert made.usage is not None
    assert made.usage.output_tokens == 100
    assert lab.posts[0].json() == {"model": "painter", "prompt": "a cat", "size": "1024x1024", "quality": "low"}
    await client.images.edit(model="art", image=("a.png", b"\x89PNG"), prompt="with a hat")
    assert form_of(lab.posts[1])["model"] == b"painter"
    with pytest.deprecated_call():
        await client.images.create_variation(  # type: ignore[deprecated]  # and still served
            model="art", image=("a.png", b"\x89PNG")
        )
    assert form_of(lab.posts[2])["image"] == b"\x89PNG"


async def test_moderations(client: AsyncOpenAI) -> None:
    judged = await client.moderations.create(model="safety", input="I will hurt you")
    assert judged.results[0].flagged
    assert judged.model == "safety"


async def test_what_a_backend_refuses_is_the_sdks_own_error(client: AsyncOpenAI, lab: OperationsUpstream) -> None:
    refusal = b'{"error": {"message": "too long", "type": "invalid_request_error", "param": "input", "code": null}}'
    lab.plan([answer(refusal, status="400 Bad Request")])
    with pytest.raises(BadRequestError, match="too long") as raised:
        await client.embeddings.create(model="small", input="cat")
    assert raised.value.param == "input"
