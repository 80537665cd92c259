"""The agent of hermes-agent behind every client of the OpenAI API.

    pip install /path/to/trunkline hermes-agent        # in an environment of their own: hermes-agent pins an older openai
    trunkline serve examples/hermes/hermes.py:agent

It is in a folder by itself because hermes-agent has modules called `utils` and `tools`, which a neighbour of that name would
hide. Its model is wherever OPENAI_BASE_URL and OPENAI_API_KEY lead; that may be another trunkline.
"""

import functools
import os

from run_agent import AIAgent

agent = functools.partial(
    AIAgent,
    base_url=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    model="gpt-5-mini",
    enabled_toolsets=["file"],
    platform="api_server",
    quiet_mode=True,
)
