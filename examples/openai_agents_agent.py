"""An agent of openai-agents behind every client of the OpenAI API.

    .venv/bin/python -m pip install -e ".[openai-agents]"
    trunkline serve examples/openai_agents_agent.py:agent

Its model is wherever OPENAI_BASE_URL and OPENAI_API_KEY lead; that may be another trunkline.
"""

from agents import Agent, function_tool, set_tracing_disabled

from trunkline.adapters.openai_agents import as_agent

set_tracing_disabled(True)  # else what is said goes to OpenAI, wherever the model is


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


@function_tool(needs_approval=True)
def close_road(name: str) -> str:
    """Closes a road. Whoever asks has to agree."""
    return f"{name} is closed."


agent = as_agent(
    Agent(name="weather", instructions="You know the weather.", model="gpt-5-mini", tools=[weather, close_road])
)
