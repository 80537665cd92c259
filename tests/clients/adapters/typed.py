"""Agents of users as a type checker sees them: whatever their state, context, dependencies and output, the adapters take them."""

from dataclasses import dataclass

from agents import Agent as OpenAIAgent
from agents import RunConfig
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel
from pydantic_ai import Agent, UsageLimits

from trunkline.adapters import langgraph, openai_agents, pydantic_ai
from trunkline.agent import Turn


@dataclass
class Who:
    name: str


class Person(BaseModel):
    name: str


def who(turn: Turn) -> Who:
    return Who(turn.tenant)


model = ChatOpenAI(model="gpt-5-mini")
graph = StateGraph(MessagesState, context_schema=Who)
graph.add_node("say", lambda state: state)
graph.add_edge(START, "say")


def say_hello(given: dict[str, object]) -> str:
    return "hello"


agents = [
    langgraph.as_agent(graph.compile(), context=who),
    langgraph.as_agent(create_agent(model, [])),
    langgraph.as_agent(entrypoint(context_schema=Who)(say_hello), context=who),
    langgraph.as_agent(create_agent(model, [], context_schema=Who, response_format=Person), context=who),
    openai_agents.as_agent(OpenAIAgent(name="plain")),
    openai_agents.as_agent(OpenAIAgent[Who](name="typed", output_type=Person), context=who, run_config=RunConfig()),
    pydantic_ai.as_agent(Agent("openai:gpt-5-mini")),
    pydantic_ai.as_agent(Agent("openai:gpt-5-mini", output_type=Person)),
    pydantic_ai.as_agent(Agent("openai:gpt-5-mini", deps_type=Who), deps=who, usage_limits=UsageLimits()),
    pydantic_ai.as_agent(Agent("openai:gpt-5-mini", deps_type=Who, output_type=[str, Person]), deps=who),
]
