"""What the adapters make of real frameworks that ask a running server; prints it as JSON. Runs in an environment of its own.

usage: trial.py FRAMEWORK BASE_URL
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from trunkline.agent import ChatMessage, ImagePart, Output, Reasoning, ToolFinished, ToolStarted, Turn, Usage
from trunkline.model.errors import TrunklineError

Agent = Callable[[Turn], AsyncIterator[Output]]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CALLED: list[ChatMessage] = [
    {"role": "user", "content": "one"},
    {
        "role": "assistant",
        "content": "two",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "three"},
]


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def broken() -> str:
    """Never works."""
    raise ValueError("no sensor")


def close_road(name: str) -> str:
    """Closes a road."""
    return f"{name} is closed"


def langgraph() -> dict[str, Agent]:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.types import Overwrite, interrupt

    from trunkline.adapters.langgraph import as_agent

    model = ChatOpenAI(model="scripted", stream_usage=True, max_retries=0)
    fails = tool(broken)
    fails.handle_tool_error = True

    def ask(state: Any) -> Any:
        return {"messages": [("ai", f"{interrupt('Which city?')} it is.")]}

    def whole(state: Any) -> Any:
        return {"messages": [*state["messages"], ("ai", "Seen.")]}

    def overwrite(state: Any) -> Any:
        return {"messages": Overwrite([("ai", "Forgotten.")])}

    asking = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    inner = create_agent(model, [weather])
    nested = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()
    return {
        "plain": as_agent(create_agent(model, [weather]).with_config(recursion_limit=6)),
        "remembering": as_agent(create_agent(model, [weather], checkpointer=InMemorySaver())),
        "asking": as_agent(asking),
        "nested": as_agent(nested),
        "forgetful": as_agent(asking.copy({"checkpointer": None})),
        "whole state": as_agent(StateGraph(MessagesState).add_node(whole).add_edge(START, "whole").compile()),
        "overwritten": as_agent(StateGraph(MessagesState).add_node(overwrite).add_edge(START, "overwrite").compile()),
    }


def workflows() -> dict[str, Agent]:
    """Of LangGraph's functional API, by what they return."""
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.func import entrypoint, task
    from langgraph.graph.message import add_messages
    from langgraph.types import interrupt
    from pydantic import BaseModel

    from trunkline.adapters.langgraph import as_agent

    model = ChatOpenAI(model="scripted", stream_usage=True, max_retries=0)

    class Person(BaseModel):
        name: str

    @task  # type: ignore[untyped-decorator]
    async def ask(messages: Any) -> Any:
        return await model.bind_tools([weather]).ainvoke(messages)

    @task  # type: ignore[untyped-decorator]
    async def look(call: Any) -> Any:
        return ToolMessage(weather(**call["args"]), tool_call_id=call["id"])

    @entrypoint()  # type: ignore[untyped-decorator]
    async def loop(given: Any) -> Any:
        messages = given["messages"]
        while True:
            message = await ask(messages)
            messages = add_messages(messages, [message])
            if not message.tool_calls:
                return messages
            messages = add_messages(messages, [await look(call) for call in message.tool_calls])

    def returns(make: Callable[[Any], Any], **options: Any) -> Agent:
        async def workflow(given: Any) -> Any:
            made = make(given["messages"])
            return await made if hasattr(made, "__await__") else made

        return as_agent(entrypoint(**options)(workflow))

    async def text(messages: Any) -> str:
        return str((await ask(messages)).text)

    async def cited(messages: Any) -> str:
        return f"{await text(messages)} (a greeting)"

    async def summary(messages: Any) -> str:
        return f"In short: {len(await text(messages))} letters."

    async def asks(messages: Any) -> str:
        return f"{interrupt('Which city?')} it is."

    def remembers(given: Any, *, previous: Any = None) -> Any:
        messages = add_messages(previous or [], given["messages"])
        return add_messages(messages, AIMessage(" ".join(message.text for message in messages)))

    def counts(given: Any, *, previous: int | None = None) -> Any:
        count = (previous or 0) + len(given["messages"])
        return entrypoint.final(value=str(count), save=count)

    return {
        "text": returns(lambda messages: f"You said: {messages[-1].text}"),
        "message": returns(lambda messages: AIMessage("A message.")),
        "messages": returns(
            lambda messages: [*messages, AIMessage("A message, "), ("ai", "a tuple, "), chat_message()]
        ),
        "state": returns(lambda messages: {"messages": [*messages, AIMessage("In a state.")]}),
        "mapping": returns(lambda messages: {"city": "Paris"}),
        "model": returns(lambda messages: Person(name="Ada")),
        "nothing": returns(lambda messages: None),
        "its model's": returns(ask),
        "its model's text": returns(text),
        "more": returns(cited),
        "other words": returns(summary),
        "loop": as_agent(loop),
        "asking": returns(asks, checkpointer=InMemorySaver()),
        "remembering": as_agent(entrypoint(checkpointer=InMemorySaver())(remembers)),
        "counting": as_agent(entrypoint(checkpointer=InMemorySaver())(counts)),
    }


def chat_message() -> dict[str, str]:
    return {"role": "assistant", "content": "a mapping."}


async def workflows_said() -> dict[str, object]:
    agents = workflows()
    seen: dict[str, object] = {}
    past: list[ChatMessage] = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    for name in agents.keys() - {"loop", "asking", "remembering", "counting"}:
        seen[name] = await said(agents[name], turn("hello", history=past, instructions="Be kind."))
    seen["loop"] = await said(agents["loop"], turn("look it up", history=CALLED))
    seen["asked"] = await said(agents["asking"], turn("hi", session_id="s"))
    seen["answered"] = await said(agents["asking"], turn("Paris", session_id="s"))
    for name in ("remembering", "counting"):
        for number, text in enumerate(("three", "four")):
            seen[f"{name} {number}"] = await said(agents[name], turn(text, session_id="s", history=past))
    return seen


def openai_agents() -> dict[str, Agent]:
    from agents import (
        Agent,
        GuardrailFunctionOutput,
        function_tool,
        input_guardrail,
        set_default_openai_client,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI
    from pydantic import BaseModel

    from trunkline.adapters.openai_agents import as_agent

    class Person(BaseModel):
        name: str
        age: int

    @input_guardrail  # type: ignore[untyped-decorator]
    async def no_greetings(_context: object, _agent: object, _input: object) -> object:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    set_tracing_disabled(True)
    set_default_openai_client(AsyncOpenAI(max_retries=0))
    tools = [function_tool(weather), function_tool(broken), function_tool(close_road, needs_approval=True)]
    return {
        "plain": as_agent(Agent(name="host", model="scripted", tools=tools), max_turns=3),
        "typed": as_agent(Agent(name="typed", model="scripted", output_type=Person)),
        "direct": as_agent(
            Agent(name="direct", model="scripted", tools=tools[:1], tool_use_behavior="stop_on_first_tool")
        ),
        "guarded": as_agent(Agent(name="guarded", model="scripted", input_guardrails=[no_greetings])),
    }


def pydantic_ai() -> dict[str, Agent]:
    from openai import AsyncOpenAI
    from pydantic import BaseModel
    from pydantic_ai import Agent, PromptedOutput, Tool
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    from trunkline.adapters.pydantic_ai import as_agent

    class Person(BaseModel):
        name: str
        age: int

    model = OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0)))
    tools = [weather, broken, Tool(close_road, requires_approval=True)]
    return {
        "plain": as_agent(Agent(model, tools=tools, retries=2)),
        "typed": as_agent(Agent(model, output_type=PromptedOutput(Person))),
    }


def refused(framework: str) -> dict[str, str]:
    """What is said of what is no agent of the framework's, or one that could say nothing."""
    from agents import Agent as OpenAIAgent
    from langgraph.graph import START, MessagesState, StateGraph
    from pydantic_ai import Agent as PydanticAgent
    from typing_extensions import TypedDict

    from trunkline.adapters import langgraph, openai_agents, pydantic_ai

    class Question(TypedDict):
        question: str

    class State(MessagesState):  # type: ignore[misc]
        question: str

    def say(state: Any) -> Any:
        return {"question": "?"}

    adapter: Any = {"langgraph": langgraph, "openai_agents": openai_agents, "pydantic_ai": pydantic_ai}[framework]
    plain = StateGraph(MessagesState).add_node(say).add_edge(START, "say")
    without = StateGraph(Question).add_node(say).add_edge(START, "say").compile()
    unasked = StateGraph(State, input_schema=Question).add_node(say).add_edge(START, "say").compile()
    others = {"OpenAIAgent": OpenAIAgent(name="a"), "PydanticAgent": PydanticAgent("test"), "none": None}
    given = {"uncompiled": plain, **others}
    given |= {"without messages": without, "unasked": unasked} if framework == "langgraph" else {}
    said = {}
    for name, one in given.items():
        try:
            adapter.as_agent(one)
        except TypeError as error:
            said[name] = str(error)
    return said


def turn(text: str, *, history: Sequence[ChatMessage] = (), **fields: Any) -> Turn:
    """A turn of a conversation. The request's id is the client's to choose, and here always the same."""
    messages = [*history, ChatMessage(role="user", content=text)]
    return Turn(input=text, history=history, messages=messages, request_id="req_1", **fields)


def shown(output: Output) -> object:
    match output:
        case Reasoning():
            return {"thought": output.text}
        case ToolStarted():
            arguments = (
                output.arguments if not isinstance(output.arguments, str) else json.loads(output.arguments or "{}")
            )
            return [output.name, output.call_id, arguments]
        case ToolFinished():
            return [output.call_id, output.output, output.failed]
        case Usage():
            return {"used": [output.input_tokens, output.output_tokens]}
        case _:
            return output


async def said(agent: Agent, given: Turn) -> list[object]:
    """What the agent yields; an exception is its class, and its code where it is one of ours."""
    outputs: list[object] = []
    try:
        async for output in agent(given):
            outputs += [shown(output)] if output != "" else []
    except TrunklineError as error:
        outputs.append([type(error).__name__, error.code])
    except Exception as error:  # noqa: BLE001 - the framework's own, whatever it is
        outputs.append([type(error).__name__, "out of quota" in str(error)])
    return outputs


@contextlib.contextmanager
def warned() -> Iterator[list[str]]:
    """What the log says meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trunkline").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("trunkline").removeHandler(handler)


async def left(agent: Agent) -> str:
    """The first word of an answer that never ends; then nobody wants it any more."""
    outputs = agent(turn("hang"))
    async with contextlib.aclosing(outputs):  # type: ignore[type-var]
        async for output in outputs:
            if output:
                return str(output)
    return ""


async def main(framework: str, base_url: str) -> None:
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = base_url, "sk-test"
    agents = {"langgraph": langgraph, "openai_agents": openai_agents, "pydantic_ai": pydantic_ai}[framework]()
    plain = agents["plain"]
    seen: dict[str, object] = {}
    before: list[ChatMessage] = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}]
    seen["hello"] = await said(plain, turn("hello"))
    seen["history"] = await said(plain, turn("hello", history=before, instructions="Be kind."))
    seen["image"] = (await said(plain, turn("hello", attachments=[ImagePart(url=PIXEL)])))[:2]
    seen["unreadable"] = (await said(plain, turn("hello", attachments=[ImagePart(file_id="file-1")])))[-1]
    seen["weather"] = await said(plain, turn("weather"))
    seen["same id"] = (await said(plain, turn("same id")))[:-1]
    seen["limit"] = (await said(plain, turn("for ever")))[-1]
    seen["quota"] = await said(plain, turn("quota"))
    seen["left"] = await left(plain)
    together = await asyncio.gather(*[said(plain, turn("hello")) for _ in range(20)])
    seen["together"] = all(one == seen["hello"] for one in together)
    if framework == "langgraph":
        for number in (1, 2):
            seen[f"remembered {number}"] = await said(agents["remembering"], turn("hello", session_id="s"))
        since: list[ChatMessage] = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Good morning."},
        ]
        seen["goes on"] = (await said(agents["remembering"], turn("hello", session_id="s", history=since)))[-1]
        seen["went back"] = (await said(agents["remembering"], turn("hello", session_id="s", history=before)))[-1]
        seen["another"] = await said(agents["remembering"], turn("hello", session_id="t"))
        for tenant, session_id in (("a", "b:c"), ("a:b", "c")):
            seen[f"of {tenant}"] = await said(
                agents["remembering"], turn("hello", session_id=session_id, tenant=tenant)
            )
        derived = "api-0123456789abcdef"
        for number in (1, 2):
            given = turn("hello", session_id=derived, history=before)
            seen[f"derived {number}"] = (await said(agents["remembering"], given))[-1]
        seen["asked"] = await said(agents["asking"], turn("hi", session_id="s"))
        seen["answered"] = await said(agents["asking"], turn("Paris", session_id="s"))
        with warned() as lines:
            await said(agents["asking"], turn("hi", session_id="again"))
            seen["warned"] = list(lines)
            await said(agents["asking"], turn("hi"))
            await said(agents["forgetful"], turn("hi", session_id="s"))
            seen["warned later"] = lines
        seen["nested"] = await said(agents["nested"], turn("weather"))
        seen["whole state"] = await said(agents["whole state"], turn("hello", history=CALLED))
        seen["overwritten"] = await said(agents["overwritten"], turn("hello", history=CALLED))
        seen["workflows"] = await workflows_said()
    else:
        seen["broken"] = await said(plain, turn("broken tool"))
        seen["approved"] = await said(plain, turn("close it", ask=lambda *asked: "once"))
        seen["denied"] = await said(plain, turn("close it", ask=lambda *asked: "deny"))
        seen["typed"] = await said(agents["typed"], turn("as json"))
    if framework == "openai_agents":
        seen["direct"] = await said(agents["direct"], turn("weather"))
        seen["guarded"] = await said(agents["guarded"], turn("hello"))
    seen["refused"] = refused(framework)
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
