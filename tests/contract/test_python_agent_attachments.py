"""Images, audio and files as the surfaces deliver them, and how each kind of agent gets them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Reply, Serving, serving

AGENTS = """
from pathlib import Path

def shown(part):
    return " ".join([type(part).__name__, *[str(value)[:40] for value in part.__reduce__()[1] if value is not None]])

async def plain(turn):
    for part in turn.attachments:
        yield shown(part) + "; "
    yield turn.input

class Direct:
    async def process_direct(self, content, media=None, on_stream=None, on_stream_end=None):
        for path in media or ():
            await on_stream(f"{Path(path).name}={Path(path).read_bytes().decode()}; ")
        await on_stream_end()
        return content

class Conversation:
    def __init__(self, stream_delta_callback):
        self.say = stream_delta_callback

    def run_conversation(self, user_message):
        self.say("text" if isinstance(user_message, str) else " ".join(part["type"] for part in user_message))
        return {"final_response": None}

class Texts:
    async def process_direct(self, content):
        return content
"""
CONFIG = "".join(
    f'[backends.{name}]\ntype = "python"\ntarget = "agents.py:{name}"\n'
    for name in ("plain", "Direct", "Conversation", "Texts")
)


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data('PIXELS')}"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": data("SOUND"), "format": "wav"}}
FILE = {"type": "file", "file": {"filename": "notes.txt", "file_data": data("WORDS")}}


async def chat(served: Serving, model: str, *parts: dict[str, Any]) -> Reply:
    content = [{"type": "text", "text": "look"}, *parts]
    return await served.chat(model=model, messages=[{"role": "user", "content": content}])


def said(reply: Reply) -> str:
    assert reply.status == 200, reply
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


async def test_a_function_gets_attachments_as_values(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        text = said(await chat(served, "plain", IMAGE, AUDIO, FILE))
        assert [piece.split()[0] for piece in text.split("; ")] == ["ImagePart", "AudioPart", "FilePart", "look"]
        assert "notes.txt" in text


async def test_process_direct_gets_them_as_files(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        text = said(await chat(served, "Direct", IMAGE, AUDIO, FILE))
        assert text == "image-0.png=PIXELS; audio-1.wav=SOUND; notes.txt=WORDS; look"
        remote = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
        refused = await chat(served, "Direct", remote)
        assert (refused.status, refused.error["code"]) == (400, "invalid_value")
        assert "send base64 data" in refused.error["message"]


async def test_a_long_name_is_cut_to_what_a_file_system_takes(tmp_path: Path) -> None:
    long = {"type": "file", "file": {"filename": f"{'報' * 200}.txt", "file_data": data("WORDS")}}
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        text = said(await chat(served, "Direct", long))
    assert text.endswith("報.txt=WORDS; look")


async def test_run_conversation_gets_images_as_parts_and_no_other_kind(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        assert said(await chat(served, "Conversation", IMAGE)) == "text image_url"
        assert said(await chat(served, "Conversation")) == "text"
        assert (await chat(served, "Conversation", FILE)).status == 400


@pytest.mark.parametrize("part", [IMAGE, AUDIO, FILE])
async def test_an_agent_that_takes_no_media_is_not_given_any(part: dict[str, Any], tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        refused = await chat(served, "Texts", part)
        assert refused.status == 400
        assert refused.error["param"] == "messages[0].content[1]"


async def test_responses_deliver_them_too(tmp_path: Path) -> None:
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": IMAGE["image_url"]["url"]},  # type: ignore[index]
        {"type": "input_file", "filename": "notes.txt", "file_data": f"data:text/plain;base64,{data('WORDS')}"},
    ]
    body = {"model": "Direct", "input": [{"role": "user", "content": parts}], "store": False}
    async with serving(CONFIG, base_dir=tmp_path, scripts={"agents.py": AGENTS}) as served:
        reply = await served.request("POST", "/v1/responses", json.dumps(body).encode())
        assert reply.status == 200, reply
        (message,) = reply.json()["output"]
        assert message["content"][0]["text"] == "image-0.png=PIXELS; notes.txt=WORDS; look"
