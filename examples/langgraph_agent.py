"""A LangGraph agent behind every client of the OpenAI API.

    .venv/bin/python -m pip install -e ".[langgraph]" langchain langchain-openai
    trunkline serve examples/langgraph_agent.py:agent

Its model is wherever OPENAI_BASE_URL and OPENAI_API_KEY lead; that may be another trunkline.
"""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from trunkline.adapters.langgraph import as_agent


def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


# Without `stream_usage` a server other than OpenAI's own is not asked what the answer used.
model = ChatOpenAI(model="gpt-5-mini", stream_usage=True)
graph = create_agent(model, [weather], system_prompt="You know the weather.")
agent = as_agent(graph.with_config(recursion_limit=20))  # steps; the default of `create_agent` is as good as none
