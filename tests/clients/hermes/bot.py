"""The agent of hermes-agent with a terminal, as somebody would serve it."""

import functools
import os

from run_agent import AIAgent  # type: ignore[import-not-found]

agent = functools.partial(
    AIAgent,
    base_url=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    model=os.environ["MODEL"],
    enabled_toolsets=["terminal", "code_execution"],
    platform="api_server",
    quiet_mode=True,
)
