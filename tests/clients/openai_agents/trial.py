"""What openai-agents does against a running server; prints what came of it as JSON. Runs in an environment of its own.

usage: trial.py BASE_URL
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    OutputGuardrailTripwireTriggered,
    Runner,
    SQLiteSession,
    WebSearchTool,
    function_tool,
    output_guardrail,
    set_tracing_disabled,
)
from openai import APIError, AsyncOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


@function_tool  # type: ignore[untyped-decorator]
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@function_tool(needs_approval=True)  # type: ignore[untyped-decorator]
def delete() -> str:
    """Deletes everything."""
    return "gone"


@output_guardrail  # type: ignore[untyped-decorator]
async def no_mornings(_context: object, _agent: object, output: str) -> object:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="morning" in output)


async def streamed(agent: object, text: str) -> list[str]:
    """The names of what happened, without the raw events, and the final output."""
    run = Runner.run_streamed(agent, text)
    names = [event.name async for event in run.stream_events() if event.type == "run_item_stream_event"]
    return [*names, run.final_output]


async def main(base_url: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0)
    model = OpenAIResponsesModel(model="scripted", openai_client=client)
    agent = Agent(name="host", instructions="Be kind.", model=model, tools=[weather, delete])
    seen: dict[str, object] = {}

    seen["run"] = (await Runner.run(agent, "hello")).final_output
    seen["tools"] = [item.type for item in (await Runner.run(agent, "weather")).new_items]
    seen["stream"] = await streamed(agent, "weather again")

    first = await Runner.run(agent, "hello", auto_previous_response_id=True)
    chained = await Runner.run(agent, "hello", previous_response_id=first.last_response_id)
    seen["chained"] = chained.final_output

    spanish = Agent(name="spanish", model=model)
    run = await Runner.run(Agent(name="triage", model=model, handoffs=[spanish]), "in Spanish")
    seen["handoff"] = [run.last_agent.name, run.final_output]

    run = await Runner.run(Agent(name="typed", model=model, output_type=Person), "as json")
    seen["structured"] = run.final_output.model_dump()

    with tempfile.TemporaryDirectory() as folder:
        session = SQLiteSession("talk", Path(folder) / "talk.db")
        for text in ("hello", "hello"):
            run = await Runner.run(agent, text, session=session)
        seen["session"] = [run.final_output, sum("role" in item for item in await session.get_items())]
        session.close()
    kept = OpenAIConversationsSession(openai_client=client)
    for text in ("hello", "hello"):
        run = await Runner.run(agent, text, session=kept)
    seen["conversation"] = [run.final_output, sum("role" in item for item in await kept.get_items())]
    await kept.clear_session()

    try:
        await Runner.run(Agent(name="guarded", model=model, output_guardrails=[no_mornings]), "hello")
    except OutputGuardrailTripwireTriggered:
        seen["guardrail"] = "tripped"

    asked = await Runner.run(agent, "delete it")
    state = asked.to_state()
    state.approve(asked.interruptions[0])
    seen["approved"] = (await Runner.run(agent, state)).final_output

    settings = ModelSettings(
        temperature=0.5,
        max_tokens=50,
        parallel_tool_calls=False,
        truncation="auto",
        store=False,
        reasoning={"effort": "low", "summary": "auto"},
        verbosity="low",
        response_include=["reasoning.encrypted_content"],
    )
    hosted = Agent(name="hosted", model=model, tools=[weather, WebSearchTool()], model_settings=settings)
    seen["settings"] = (await Runner.run(hosted, "hello")).final_output

    try:
        await Runner.run(agent, "fail midway")
    except APIError as error:
        seen["failure"] = error.code

    socket = OpenAIResponsesWSModel(model="scripted", openai_client=client)
    run = await Runner.run(
        Agent(name="socket", model=socket, tools=[weather]), "weather", auto_previous_response_id=True
    )
    seen["socket"] = [run.final_output, (await Runner.run(Agent(name="socket", model=socket), "hello")).final_output]
    await socket.close()

    chat = OpenAIChatCompletionsModel(model="scripted", openai_client=client)
    seen["chat"] = await streamed(Agent(name="chat", model=chat, tools=[weather]), "hello")
    await client.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
