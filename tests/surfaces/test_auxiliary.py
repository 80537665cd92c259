"""What chat UIs ask for themselves, as each of them begins it: answered at once, outside the session it names.

Open WebUI 0.12.4: the default templates in backend/open_webui/config.py and utils/, with how they go on. Older versions of its
follow-up questions began otherwise.
"""

import asyncio
import json

import pytest

from tests.conftest import Serve
from tests.serving import Reply, Serving, eventually, user
from tests.sockets import HELD, HOLD, HOLDING
from trunkline.engine.auxiliary import RULES

NAMED = {"x-session-id": "s1"}
ECHO = {"bot.py": "async def agent(turn):\n    yield turn.input\n"}
BOT = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'

CHAT = "\n### Chat History:\n<chat_history>\nUSER: hold\nASSISTANT: ho\n</chat_history>"
OPEN_WEBUI = {
    "title_generation": "### Task:\nGenerate a concise title summarizing the chat history.\n### Guidelines:\n- …"
    + CHAT,
    "tags_generation": "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, …" + CHAT,
    "image_prompt_generation": "### Task:\nGenerate a detailed prompt for am image generation task based on …" + CHAT,
    "follow_up_generation": "### Task:\nPredict 3-5 useful messages this user might naturally send next …" + CHAT,
    "follow_up_generation before 0.12": "### Task:\nSuggest 3-5 relevant follow-up questions or prompts …" + CHAT,
    "query_generation": "### Task:\nAnalyze the chat history to determine the necessity of generating search …"
    + CHAT
    + "\n",
    "autocomplete_generation": "### Task:\nYou are an autocompletion system. Continue the text in `<text>` …\n---\n### Context:\n"
    "<chat_history>\nUSER: hold\n</chat_history>\n<type>General</type>  \n<text>hol</text>  \n#### Output:\n",
    "emoji_generation": "Your task is to reflect the speaker's likely facial expression through a fitting emoji. …\n\n"
    "Message: ```hold```",
    "moa_response_generation": "You have been provided with a set of responses from various models to the latest user query: "
    '"hold"\n\nYour task is to synthesize …\n\nResponses from models: """a"""\n\n"""b"""',
    "context_compaction": "### Task:\nSummarize the conversation history that will be compacted out of the active chat context."
    "\n\n### Instructions:\n- …\n\n### Previous Summary:\n\n\n### Messages Being Compacted:\nUSER: hold\n\n"
    "### Recent Messages Kept In Context:\nUSER: ho",
    "memory_review": "Review the completed conversation turn and decide whether long-term memory should change.\n\nMemory types:\n"
    "- …\n\nExisting memories:\n(none)\n\nConversation:\nuser: hold\n\nassistant_final: ho\n",
}
DOCUMENTS = (
    "### Task:\nRespond to the user query using the provided context, incorporating inline citations …\n\n### Guidelines:\n- …\n\n"
    '<context>\n<source id="1" name="ui.py">{document}</source>\n</context>\n\nWhat does it say?'
)


async def ask(server: Serving, *messages: object) -> Reply:
    body = json.dumps({"model": "bot", "messages": messages}).encode()
    return await server.request("POST", "/v1/chat/completions", body, headers=NAMED)


@pytest.mark.parametrize("task", OPEN_WEBUI)
async def test_what_open_webui_asks_for_itself_stays_out(serve: Serve, task: str) -> None:
    system = [{"role": "system", "content": "You review memories in private."}] if task == "memory_review" else []
    async with serve(BOT, scripts=ECHO) as server:
        asked = await ask(server, *system, *user(OPEN_WEBUI[task]))
        assert asked.status == 200, asked
        assert asked.headers["x-session-id"].startswith("api-")
        assert (await server.get("/v1/sessions")).json()["data"] == []


@pytest.mark.parametrize(("beginning", "holds"), RULES)
async def test_what_a_chat_ui_asks_for_itself_does_not_wait(serve: Serve, beginning: str, holds: str) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        first = asyncio.create_task(ask(server, *user("hold")))
        await eventually(lambda: HELD.begun == ["hold"])
        asked = await ask(server, *user(f"{beginning}Generate something.\n{holds}\nUSER: hold\n"))
        assert asked.status == 200, asked
        assert asked.headers["x-session-id"].startswith("api-")
        HELD.open("hold")
        await first
        kept = (await server.get("/v1/sessions/s1/messages")).json()["data"]
        assert [item["role"] for item in kept] == ["user", "assistant"]


async def test_only_the_whole_request_makes_it_one(serve: Serve) -> None:
    quoted = "Why does it say '### Task:\nGenerate' and <chat_history>?"
    title = OPEN_WEBUI["title_generation"]
    async with serve(BOT, scripts=ECHO) as server:
        for text in (DOCUMENTS.format(document="cats"), quoted):
            assert (await ask(server, *user(text))).headers["x-session-id"] == "s1"
        answered = [*user("hi"), {"role": "assistant", "content": "ho"}, *user(title)]
        assert (await ask(server, *answered)).headers["x-session-id"] == "s1"
    async with serve("[sessions]\nskip_auxiliary = false\n" + BOT, scripts=ECHO) as server:
        assert (await ask(server, *user(title))).headers["x-session-id"] == "s1"


async def test_a_question_about_a_document_is_the_users_whatever_the_document_says(serve: Serve) -> None:
    """Open WebUI puts what it has found around the question, in words that begin as its own tasks do."""
    async with serve(BOT, scripts=ECHO) as server:
        asked = await ask(server, *user(DOCUMENTS.format(document="The template ends in <chat_history>.")))
        assert asked.headers["x-session-id"] == "s1"
