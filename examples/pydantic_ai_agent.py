"""An agent of pydantic-ai behind every client of the OpenAI API.

    .venv/bin/python -m pip install -e ".[pydantic-ai]" "pydantic-ai-slim[openai]"
    trunkline serve examples/pydantic_ai_agent.py:agent

Its model is wherever OPENAI_BASE_URL and OPENAI_API_KEY lead; that may be another trunkline.
"""

from pydantic_ai import Agent

from trunkline.adapters.pydantic_ai import as_agent

meteorologist = Agent("openai-chat:gpt-5-mini", instructions="You know the weather.")


@meteorologist.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


@meteorologist.tool_plain(requires_approval=True)
def close_road(name: str) -> str:
    """Closes a road. Whoever asks has to agree."""
    return f"{name} is closed."


agent = as_agent(meteorologist)
