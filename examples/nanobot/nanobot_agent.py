"""The agent of nanobot-ai behind every client of the OpenAI API.

    pip install /path/to/trunkline nanobot-ai
    trunkline serve examples/nanobot/nanobot_agent.py:agent

It is configured as nanobot itself is, in ~/.nanobot/config.json, and keeps its conversations where that says.
"""

from nanobot.agent.loop import AgentLoop
from nanobot.agent.tools.registry import ToolRegistry
from nanobot.config.loader import load_config

agent = AgentLoop.from_config(load_config(), tool_registry=ToolRegistry())
