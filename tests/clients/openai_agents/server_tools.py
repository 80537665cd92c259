"""What openai-agents makes of an agent's own tools; prints it as JSON. Runs in an environment of its own.

usage: server_tools.py BASE_URL
"""

import asyncio
import json
import sys

from agents import (
    Agent,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


@function_tool  # type: ignore[untyped-decorator]
def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny" if city == "Paris" else "unknown"


async def streamed(agent: object, text: str) -> list[str]:
    run = Runner.run_streamed(agent, text)
    names = [event.name async for event in run.stream_events() if event.type == "run_item_stream_event"]
    return [*names, run.final_output]


async def main(base_url: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    agent = Agent(name="host", model=OpenAIResponsesModel(model="bot", openai_client=client))
    seen: dict[str, object] = {}
    first = await Runner.run(agent, "cats")
    seen["run"] = [[item.type for item in first.new_items], first.final_output]
    again = [*first.to_input_list(), {"role": "user", "content": "history"}]
    seen["sent back"] = (await Runner.run(agent, again)).final_output
    chained = await Runner.run(agent, "history", previous_response_id=first.last_response_id)
    seen["chained"] = chained.final_output
    session = SQLiteSession("cats", ":memory:")
    await Runner.run(agent, "cats", session=session)
    seen["session"] = (await Runner.run(agent, "history", session=session)).final_output
    kept = OpenAIConversationsSession(openai_client=client)
    await Runner.run(agent, "cats", session=kept)
    seen["conversation"] = (await Runner.run(agent, "history", session=kept)).final_output
    seen["stream"] = await streamed(agent, "cats")
    both = await Runner.run(Agent(name="host", model=agent.model, tools=[weather]), "weather")
    seen["both"] = [[item.type for item in both.new_items], both.final_output]
    socket = Agent(name="host", model=OpenAIResponsesWSModel(model="bot", openai_client=client))
    seen["socket"] = await streamed(socket, "cats")
    await socket.model.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
