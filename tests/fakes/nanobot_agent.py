"""An agent with the method and the callbacks of nanobot's, for tests of its profile. What it does is chosen by the message."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

Say = Callable[..., Awaitable[None]]


def described(path: str) -> list[object]:
    """Kind and size of a file."""
    return [Path(path).suffix[1:], len(Path(path).read_bytes())]


class Agent:
    """One object serves every turn, as nanobot's does."""

    def __init__(self) -> None:
        self.active = 0
        self.most_active = 0
        self.opened = asyncio.Event()
        self._last_usage: dict[str, int] | None = None

    async def process_direct(
        self,
        content: str,
        session_key: str = "cli:direct",
        channel: str = "cli",
        chat_id: str = "direct",
        media: Sequence[str] | None = None,
        on_stream: Say | None = None,
        on_stream_end: Say | None = None,
        on_progress: Say | None = None,
    ) -> str:
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            if content == "tool" and on_progress is not None:
                return await self._tool(on_progress)
            return await self._answer(content, session_key, media or (), on_stream, on_stream_end)
        finally:
            self.active -= 1

    async def _tool(self, on_progress: Say) -> str:
        call = {"version": 1, "call_id": "call_1", "name": "read_file"}
        await on_progress("notes.txt", tool_events=[{**call, "phase": "start", "arguments": {"path": "notes.txt"}}])
        await on_progress("", tool_events=[{**call, "phase": "end", "result": "buy milk"}])
        return "Read."

    async def _answer(
        self, content: str, session_key: str, media: Sequence[str], on_stream: Say | None, on_stream_end: Say | None
    ) -> str:
        match content.split(maxsplit=1)[0]:
            case "show":
                files = [described(path) for path in media]
                callbacks = [on_stream is not None, on_stream_end is not None]
                return json.dumps({"session": session_key, "content": content, "files": files, "callbacks": callbacks})
            case "fail":
                raise RuntimeError("Provider failed")
            case "say" if on_stream is not None and on_stream_end is not None:
                await on_stream("Hello")
                await on_stream_end(resuming=True)
                await on_stream(" world")
                await on_stream_end(resuming=False)
                return "Hello world"
            case "wait":
                await self.opened.wait()
                return "waited"
            case "count":
                self._last_usage = {"prompt_tokens": 5, "completion_tokens": 2}
                return "counted"
            case "nothing":
                return ""
            case _:
                return f"You said: {content}"


agent = Agent()
