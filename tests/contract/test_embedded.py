"""The embedded backend through its port, with the real engine and the model that `make install` fetches.

One loaded model serves the whole module. What a 135-million-parameter model says is not asserted, only what any model's
answer must keep; where a test needs a certain text, it takes it from an earlier answer of the same model.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from trunkline.backends.embedded import EmbeddedBackend, build
from trunkline.config.schema import EmbeddedSettings
from trunkline.model import events as ev
from trunkline.model.errors import (
    BackendRejected,
    BackendUnavailable,
    ConfigError,
    InvalidParameter,
    TrunklineError,
    UnsupportedParameter,
)
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, TextPart, text_of
from trunkline.model.request import JsonSchema, NamedTool, Request, Tool
from trunkline.model.turn import Turn, fold
from trunkline.ports.backend import BackendSetup, EventBatch
from trunkline.testing.answers import CountingEntropy, PinnedClock, batches_of, events_of, text_in, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS = 4
STORY = "Tell a story about a ship."
ENDLESS = {"2": -100.0}  # SmolLM2's end-of-turn token, banned
WEATHER = Tool(
    name="get_weather",
    description="Current weather of a city",
    parameters=msgspec.Raw(
        b'{"type":"object","properties":{"city":{"enum":["Paris","Rome"]},"unit":{"$ref":"#/$defs/unit"}},'
        b'"required":["city","unit"],"$defs":{"unit":{"enum":["celsius","fahrenheit"]}}}'
    ),
)
CLOCK = Tool(name="get_time", description="Current time")
TOOL_TEMPLATE = """
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% if loop.first and tools %}{{ tools | tojson }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def embedded(settings: EmbeddedSettings | None = None, *, chat_template: str | None = None) -> EmbeddedBackend:
    setup = BackendSetup(name="local", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
    return EmbeddedBackend(settings or EmbeddedSettings(slots=SLOTS), setup, chat_template=chat_template)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[EmbeddedBackend]:
    loaded = embedded()
    await loaded.start()
    yield loaded
    await loaded.close()


def asking(*items: Item | str, **parameters: object) -> Request:
    read = tuple([user(item) if isinstance(item, str) else item for item in items])
    return Request(model="m", items=read, **parameters)  # type: ignore[arg-type]  # each test names real fields


async def turn_of(backend: EmbeddedBackend, request: Request) -> Turn:
    return fold(await events_of(backend, request))


def texts_of(turn: Turn) -> list[str]:
    by_choice = sorted(turn.items, key=lambda item: item.choice)
    return [text_of(item.item.content) for item in by_choice if isinstance(item.item, Message)]


def call_of(turn: Turn) -> FunctionCall:
    [item] = turn.items
    assert isinstance(item.item, FunctionCall)
    return item.item


async def text_of_greedy(backend: EmbeddedBackend, max_output_tokens: int = 12) -> str:
    request = asking(STORY, temperature=0.0, max_output_tokens=max_output_tokens, logit_bias=ENDLESS)
    return text_in(await events_of(backend, request))


async def refusal_of(backend: EmbeddedBackend, request: Request) -> TrunklineError:
    with pytest.raises(TrunklineError) as caught:
        await events_of(backend, request)
    return caught.value


async def until_content(answer: AsyncGenerator[EventBatch, None]) -> list[ev.Event]:
    """Reads up to the batch that holds the first content."""
    events: list[ev.Event] = []
    async for batch in answer:
        events.extend(batch)
        if any(isinstance(event, ev.CONTENT) for event in batch):
            return events
    raise AssertionError("the answer had no content")


async def until_idle(backend: EmbeddedBackend) -> dict[str, float]:
    """The engine's counters once no slot is busy. Asking waits for the engine's next round, so this is no busy loop."""
    while (metrics := await backend.metrics())["requests_processing"]:
        pass
    return metrics


async def test_text_streams_with_usage_and_a_finish_reason(backend: EmbeddedBackend) -> None:
    request = asking(STORY, max_output_tokens=8, logit_bias=ENDLESS)
    batches = [batch async for batch in batches_of(backend, request)]
    assert sum(any(isinstance(event, ev.TextDelta) for event in batch) for batch in batches) > 1
    turn = fold([event for batch in batches for event in batch])
    assert turn.turn_id == "turn_1"
    assert turn.model == "smollm2-135m-instruct"
    assert texts_of(turn) != [""]
    assert turn.usage is not None
    assert turn.usage.output_tokens == 8
    assert turn.usage.input_tokens > 8
    assert [choice.finish_reason for choice in turn.choices] == ["length"]
    assert turn.terminal == ev.TurnIncomplete("max_output_tokens")


async def test_a_repeated_prompt_is_reported_as_cached(backend: EmbeddedBackend) -> None:
    request = asking("What is a prompt cache?", max_output_tokens=2)
    await turn_of(backend, request)
    usage = (await turn_of(backend, request)).usage
    assert usage is not None
    assert usage.cached_tokens is not None
    assert usage.input_tokens > usage.cached_tokens > usage.input_tokens // 2


async def test_the_same_seed_gives_the_same_text(backend: EmbeddedBackend) -> None:
    def request(seed: int) -> Request:
        return asking(STORY, seed=seed, temperature=1.0, max_output_tokens=12, logit_bias=ENDLESS)

    first = texts_of(await turn_of(backend, request(7)))
    assert texts_of(await turn_of(backend, request(7))) == first
    others = [texts_of(await turn_of(backend, request(seed))) for seed in (8, 9, 10)]
    assert any(other != first for other in others)


async def test_n_gives_that_many_choices_and_counts_the_prompt_once(backend: EmbeddedBackend) -> None:
    one = (await turn_of(backend, asking(STORY, max_output_tokens=4, logit_bias=ENDLESS))).usage
    request = asking(STORY, n=2, seed=1, temperature=1.0, max_output_tokens=4, logit_bias=ENDLESS)
    turn = await turn_of(backend, request)
    assert [choice.index for choice in turn.choices] == [0, 1]
    assert {item.choice for item in turn.items} == {0, 1}
    assert turn.usage is not None
    assert one is not None
    assert turn.usage.input_tokens == one.input_tokens
    assert turn.usage.output_tokens == 8
    assert texts_of(await turn_of(backend, request)) == texts_of(turn)


async def test_more_choices_than_slots_are_all_answered(backend: EmbeddedBackend) -> None:
    turn = await turn_of(backend, asking(STORY, n=SLOTS + 1, max_output_tokens=2, logit_bias=ENDLESS))
    assert [choice.finish_reason for choice in turn.choices] == ["length"] * (SLOTS + 1)
    assert turn.usage is not None
    assert turn.usage.output_tokens == 2 * (SLOTS + 1)


@pytest.mark.parametrize("top", [None, 0, 3])
async def test_logprobs_carry_token_ids_and_spell_the_text(backend: EmbeddedBackend, top: int | None) -> None:
    request = asking(STORY, logprobs=True, top_logprobs=top, max_output_tokens=5, temperature=0.0)
    turn = await turn_of(backend, request)
    [item] = turn.items
    assert "".join([token.token for token in item.logprobs]) == texts_of(turn)[0]
    assert item.token_ids == tuple(token.id for token in item.logprobs)
    assert all(token.logprob <= 0 and len(token.top) == (top or 0) for token in item.logprobs)
    if top:  # greedy: the sampled token is the most likely one
        assert [token.top[0].id for token in item.logprobs] == list(item.token_ids)


async def test_no_logprobs_unless_asked(backend: EmbeddedBackend) -> None:
    events = await events_of(backend, asking(STORY, max_output_tokens=3))
    assert not any(isinstance(event, ev.TokensDelta) for event in events)


async def test_a_banned_token_does_not_come(backend: EmbeddedBackend) -> None:
    def request(**more: object) -> Request:
        return asking(STORY, logprobs=True, temperature=0.0, max_output_tokens=1, **more)

    first = (await turn_of(backend, request())).items[0].token_ids[0]
    assert (await turn_of(backend, request(logit_bias={str(first): -100.0}))).items[0].token_ids[0] != first


async def test_the_answer_ends_before_a_stop_sequence(backend: EmbeddedBackend) -> None:
    text = await text_of_greedy(backend)
    words = text.split(" ")
    stop = " " + words[len(words) // 2]
    request = asking(STORY, temperature=0.0, max_output_tokens=12, logit_bias=ENDLESS, stop=("\0never", stop))
    turn = await turn_of(backend, request)
    assert texts_of(turn) == [text[: text.index(stop)]]
    assert turn.choices[0].finish_reason == "stop"


async def test_sampling_parameters_are_taken(backend: EmbeddedBackend) -> None:
    request = asking(
        STORY, temperature=1.9, top_p=0.5, presence_penalty=1.0, frequency_penalty=-0.5, seed=-1, max_output_tokens=2
    )
    assert (await turn_of(backend, request)).terminal == ev.TurnIncomplete("max_output_tokens")


async def test_json_schema_is_kept(backend: EmbeddedBackend) -> None:
    schema = msgspec.Raw(
        b'{"type":"object","properties":{"colour":{"enum":["red","green"]},"count":{"type":"integer","minimum":1,'
        b'"maximum":9}},"required":["colour","count"],"additionalProperties":false}'
    )
    request = asking(
        "Which apples?", n=SLOTS, response_format=JsonSchema(name="a", schema=schema, strict=True), temperature=1.5
    )
    turn = await turn_of(backend, request)
    for text in texts_of(turn):
        answer = json.loads(text)
        assert answer.keys() == {"colour", "count"}
        assert answer["colour"] in ("red", "green")
        assert 1 <= answer["count"] <= 9
    assert {choice.finish_reason for choice in turn.choices} == {"stop"}


async def test_json_object_is_json(backend: EmbeddedBackend) -> None:
    request = asking("Hello", response_format="json_object", n=SLOTS, temperature=1.0, max_output_tokens=24)
    turn = await turn_of(backend, request)
    for text, choice in zip(texts_of(turn), turn.choices, strict=True):
        assert text.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "schema", [b'{"type":"nonsense"}', b'{"$ref":"#/nope"}', b'{"$ref":"http://127.0.0.1:9/x"}', b'{"enum":[]}']
)
async def test_a_schema_the_engine_cannot_read_is_the_callers_fault(backend: EmbeddedBackend, schema: bytes) -> None:
    form = JsonSchema(name="s", schema=msgspec.Raw(schema))
    error = await refusal_of(backend, asking("x", response_format=form))
    assert isinstance(error, InvalidParameter)
    assert error.param == "response_format"


@pytest.mark.parametrize("question", ["What is the weather in Rome?", "¿Qué tiempo hace en París? 🌧"])
async def test_a_named_function_is_called(backend: EmbeddedBackend, question: str) -> None:
    request = asking(question, tools=(CLOCK, WEATHER), tool_choice=NamedTool("get_weather"), temperature=0.0)
    events = await events_of(backend, request)
    assert sum(isinstance(event, ev.ArgumentsDelta) for event in events) > 1
    turn = fold(events)
    call = call_of(turn)
    assert call.name == "get_weather"
    assert call.call_id.startswith("call_")
    arguments = json.loads(call.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    assert arguments["unit"] in ("celsius", "fahrenheit")
    assert turn.choices[0].finish_reason == "tool_calls"
    assert turn.terminal == ev.TurnCompleted()
    assert turn.usage is not None


async def test_required_calls_exactly_one_of_the_functions(backend: EmbeddedBackend) -> None:
    limited = Tool(
        name="note", parameters=msgspec.Raw(b'{"type":"object","properties":{"n":{"enum":[1,2]}},"required":["n"]}')
    )
    request = asking("Do something.", tools=(WEATHER, limited), tool_choice="required", n=3, temperature=1.5, seed=3)
    turn = await turn_of(backend, request)
    assert [choice.finish_reason for choice in turn.choices] == ["tool_calls"] * 3
    calls = [item.item for item in turn.items]
    assert len({call.call_id for call in calls if isinstance(call, FunctionCall)}) == 3
    for call in calls:
        assert isinstance(call, FunctionCall)
        arguments = json.loads(call.arguments)
        assert arguments.keys() == ({"city", "unit"} if call.name == "get_weather" else {"n"})


async def test_a_function_without_parameters_is_called_with_an_empty_object(backend: EmbeddedBackend) -> None:
    request = asking("What time is it?", tools=(CLOCK,), tool_choice=NamedTool("get_time"), temperature=0.0)
    assert json.loads(call_of(await turn_of(backend, request)).arguments) == {}


async def test_a_call_cut_by_length_says_so(backend: EmbeddedBackend) -> None:
    text = msgspec.Raw(b'{"type":"object","properties":{"text":{"type":"string","minLength":200}},"required":["text"]}')
    request = asking(
        "Write.", tools=(Tool(name="write", parameters=text),), tool_choice="required", max_output_tokens=30
    )
    turn = await turn_of(backend, request)
    assert call_of(turn).arguments.startswith("{")
    assert turn.choices[0].finish_reason == "length"


async def test_auto_is_refused_where_the_template_takes_no_tools(backend: EmbeddedBackend) -> None:
    error = await refusal_of(backend, asking("x", tools=(CLOCK,)))
    assert isinstance(error, UnsupportedParameter)
    assert error.param == "tools"


async def test_a_history_with_tool_runs_is_read(backend: EmbeddedBackend) -> None:
    call = FunctionCall(call_id="call_1", name="get_time", arguments="{}")
    output = FunctionCallOutput(call_id="call_1", content=(TextPart("12:00"),))
    request = asking("What time is it?", call, output, tools=(CLOCK,), tool_choice="none", max_output_tokens=3)
    assert texts_of(await turn_of(backend, request)) != [""]


async def test_a_prompt_longer_than_the_context_is_the_callers_fault(backend: EmbeddedBackend) -> None:
    error = await refusal_of(backend, asking("hello world " * 3000))
    assert isinstance(error, BackendRejected)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "4096 tokens" in error.message


async def test_requests_are_generated_for_at_once(backend: EmbeddedBackend) -> None:
    async with contextlib.AsyncExitStack() as stack:
        answers = [batches_of(backend, asking(f"{STORY} {n}", logit_bias=ENDLESS)) for n in range(SLOTS)]
        for answer in answers:
            await stack.enter_async_context(contextlib.aclosing(answer))
            await until_content(answer)
        metrics = await backend.metrics()
        assert metrics["requests_processing"] == SLOTS
        assert metrics["requests_deferred"] == 0
    metrics = await until_idle(backend)
    assert metrics["n_busy_slots_per_decode"] > 1


async def test_closing_an_answer_frees_its_slot_in_the_engine(backend: EmbeddedBackend) -> None:
    before = metrics = await until_idle(backend)
    # Every slot is taken by an answer that would go on for thousands of tokens; closed, they leave room for as many.
    for _ in range(2):
        answers = [batches_of(backend, asking(f"{STORY} {n}", logit_bias=ENDLESS)) for n in range(SLOTS)]
        for answer in answers:
            await until_content(answer)
        for answer in answers:
            await answer.aclose()
        metrics = await until_idle(backend)
    # Had one of them run to the end of its context, it alone would have given more.
    assert metrics["tokens_predicted_total"] - before["tokens_predicted_total"] < 2000
    assert texts_of(await turn_of(backend, asking("Hi", max_output_tokens=2))) != [""]


async def test_closing_an_answer_stops_the_reading_of_its_prompt(backend: EmbeddedBackend) -> None:
    read_before = (await backend.metrics())["prompt_tokens_total"]
    answer = batches_of(backend, asking("never seen before " * 1000))
    batch = await anext(answer)
    assert isinstance(batch[0], ev.TurnStarted)
    await answer.aclose()
    assert (await until_idle(backend))["prompt_tokens_total"] - read_before < 3000


async def test_a_turn_cancelled_while_it_waits_takes_no_slot(backend: EmbeddedBackend) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for n in range(SLOTS):
            answer = batches_of(backend, asking(f"{STORY} {n}", logit_bias=ENDLESS))
            await stack.enter_async_context(contextlib.aclosing(answer))
            await until_content(answer)
        waiting = asyncio.create_task(turn_of(backend, asking("Hi")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert (await backend.metrics())["requests_processing"] == SLOTS
    assert texts_of(await turn_of(backend, asking("Hi", n=SLOTS, max_output_tokens=2))) != [""]


async def test_the_loop_goes_on_while_the_engine_works(backend: EmbeddedBackend) -> None:
    turns_of_the_loop = 0

    async def heart() -> None:
        nonlocal turns_of_the_loop
        while True:
            turns_of_the_loop += 1
            await asyncio.sleep(0)

    heartbeat = asyncio.create_task(heart())
    request = asking("a new prompt " * 60, max_output_tokens=8, logit_bias=ENDLESS)
    seen = [turns_of_the_loop async for _ in batches_of(backend, request)]
    heartbeat.cancel()
    # An engine that held the loop would let it turn a few times per batch; free, it turns as fast as it can.
    assert seen[-1] - seen[0] > 50 * len(seen)


async def test_the_model_is_listed_with_its_context(backend: EmbeddedBackend) -> None:
    [model] = await backend.models()
    assert model.id == "smollm2-135m-instruct"
    assert model.context_tokens == 4096
    assert model.created_at > 0


async def test_closing_the_backend_ends_answers_under_way() -> None:
    loaded = embedded(EmbeddedSettings(slots=2, context_tokens=512))
    await loaded.start()
    answers = [batches_of(loaded, asking(STORY, logit_bias=ENDLESS)) for _ in range(2)]
    for answer in answers:
        await until_content(answer)
    waiting = asyncio.create_task(turn_of(loaded, asking("Hi")))
    await asyncio.sleep(0)
    await loaded.close()
    for answer in answers:
        with pytest.raises(BackendUnavailable):
            await until_the_end(answer)
    with pytest.raises(BackendUnavailable):
        await waiting
    with pytest.raises(BackendUnavailable):
        await turn_of(loaded, asking("Hi"))
    await loaded.close()


async def until_the_end(answer: AsyncGenerator[EventBatch, None]) -> Sequence[EventBatch]:
    return [batch async for batch in answer]


async def test_a_template_that_takes_tools_lets_the_model_choose() -> None:
    loaded = embedded(EmbeddedSettings(slots=1, context_tokens=1024, model_name="chooser"), chat_template=TOOL_TEMPLATE)
    await loaded.start()
    try:
        turn = await turn_of(loaded, asking("Hello", tools=(WEATHER,), max_output_tokens=4, logit_bias=ENDLESS))
        assert turn.model == "chooser"
        assert turn.choices[0].finish_reason in ("length", "tool_calls")
        call = FunctionCall(call_id="call_1", name="get_weather", arguments='{"city":"Rome","unit":"celsius"}')
        output = FunctionCallOutput(call_id="call_1", content=(TextPart("sunny"),))
        history = asking("And in Paris?", call, output, tools=(WEATHER, CLOCK), tool_choice=NamedTool("get_weather"))
        assert json.loads(call_of(await turn_of(loaded, history)).arguments)["city"] in ("Paris", "Rome")
    finally:
        await loaded.close()


async def test_a_backend_that_was_not_started_says_so_and_closes() -> None:
    idle = embedded()
    with pytest.raises(BackendUnavailable):
        await turn_of(idle, asking("Hi"))
    await idle.close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot read"), (b"<html>", "expected a GGUF file"), (b"GGUF" + bytes(60), "llama.cpp cannot load")],
    ids=["missing", "not a model", "damaged"],
)
async def test_a_file_that_is_no_model_is_a_config_error(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "model.gguf").write_bytes(content)
    setup = BackendSetup(name="local", base_dir=tmp_path, clock=PinnedClock(), entropy=CountingEntropy())
    broken = build(EmbeddedSettings(path="model.gguf"), setup)
    with pytest.raises(ConfigError, match=expected) as caught:
        await broken.start()
    assert caught.value.key == "backends.local.path"
    await broken.close()
