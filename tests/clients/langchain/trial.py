"""What LangChain's ChatOpenAI does against a running server; prints what came of it as JSON. Runs in an environment of its own.

usage: trial.py BASE_URL chat|responses
"""

import asyncio
import json
import sys

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


@tool  # type: ignore[untyped-decorator]
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def trial(model: ChatOpenAI) -> dict[str, object]:
    """What works with either API."""
    seen: dict[str, object] = {}
    answer = await model.ainvoke([SystemMessage("Be kind."), HumanMessage("hello")])
    seen["invoke"] = [answer.text, answer.usage_metadata["output_tokens"]]
    pieces = [chunk async for chunk in model.astream("hello")]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    seen["stream"] = [whole.text, sum(bool(piece.text) for piece in pieces), whole.usage_metadata["output_tokens"]]
    seen["batch"] = [one.text for one in await model.abatch(["hello", "hello"])]
    called = await model.bind_tools([weather]).ainvoke("call it")
    seen["tools"] = [[call["name"], call["args"]] for call in called.tool_calls]
    state = await create_agent(model, [weather]).ainvoke({"messages": [HumanMessage("weather")]})
    seen["agent"] = [message.type for message in state["messages"]], state["messages"][-1].text
    person = await model.with_structured_output(Person, method="json_schema").ainvoke("as json")
    seen["structured"] = person.model_dump()
    try:
        await model.ainvoke("fail at once")
    except Exception as error:  # noqa: BLE001 - what LangChain makes of it
        seen["failure"] = "gone" in str(error)
    return seen


async def main(base_url: str, api: str) -> None:
    def model(**settings: object) -> ChatOpenAI:
        return ChatOpenAI(model="scripted", base_url=base_url, api_key="sk-test", max_retries=0, **settings)

    seen = await trial(model(stream_usage=True) if api == "chat" else model(use_responses_api=True))
    if api == "responses":
        chained = model(use_responses_api=True, use_previous_response_id=True)
        first = await chained.ainvoke([HumanMessage("hello")])
        second = await chained.ainvoke([HumanMessage("hello"), first, HumanMessage("hello")])
        seen["chained"] = [second.text, first.response_metadata["id"].startswith("resp_")]
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
