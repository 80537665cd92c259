"""uvicorn's own server around an application, as somebody's program would start it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from tests.serving import eventually
from trunkline.cli.listen import listen


@contextlib.asynccontextmanager
async def on_uvicorn(app: Any, **settings: Any) -> AsyncIterator[str]:
    """The base URL of an application under uvicorn's own server."""
    with contextlib.closing(listen("127.0.0.1", port=0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, **settings))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started or serving.done())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
