"""What LangChain makes of an agent's own tools; prints it as JSON. Runs in an environment of its own.

usage: server_tools.py BASE_URL
"""

import asyncio
import json
import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool  # type: ignore[untyped-decorator]
def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny" if city == "Paris" else "unknown"


async def main(base_url: str) -> None:
    def model(**settings: object) -> ChatOpenAI:
        given = {"base_url": base_url, "api_key": "none", "max_retries": 0, "use_responses_api": True}
        return ChatOpenAI(model="bot", **given, **settings)

    def kinds(message: Any) -> list[str]:
        return [block["type"] for block in message.content_blocks]

    seen: dict[str, object] = {}
    asked, more = HumanMessage("cats"), HumanMessage("history")
    state = await create_agent(model(), []).ainvoke({"messages": [asked]})
    answer = state["messages"][-1]
    seen["agent"] = [[message.type for message in state["messages"]], answer.text, answer.tool_calls, kinds(answer)]
    seen["sent back"] = (await model().ainvoke([asked, answer, more])).text
    pieces = [chunk async for chunk in model().astream([asked])]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    seen["stream"] = [whole.text, whole.tool_calls, kinds(whole)]
    seen["streamed and sent back"] = (await model().ainvoke([asked, whole, more])).text
    typed = await model(output_version="v1").ainvoke([asked])
    seen["v1"] = [kinds(typed), (await model(output_version="v1").ainvoke([asked, typed, more])).text]
    state = await create_agent(model(), [weather]).ainvoke({"messages": [HumanMessage("weather")]})
    seen["both"] = [[message.type for message in state["messages"]], state["messages"][-1].text]
    chained = model(use_previous_response_id=True)
    seen["chained"] = (await chained.ainvoke([asked, await chained.ainvoke([asked]), more])).text
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
