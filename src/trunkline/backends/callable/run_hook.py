"""How a run went, of an agent that tells it to hooks: its tokens, and whether it failed.

nanobot's agent (seen in 0.3.5) takes `hooks` for a turn and calls a dozen methods on each. All but the one that
brings the end of the whole run are answered with nothing, by any name, so that a later version may have more of them.
The hook is its turn's own, so turns side by side cannot take each other's usage. What the agent returns is text in
any case: that it is about a failure, or that the run was cut short, only the hook hears.
"""

from collections.abc import Awaitable, Callable

from trunkline.agent import Usage


class RunHook:
    """One run's.

    Attributes:
        usage: None where it was not told.
        state: the fields of a result mapping that say how it went.
    """

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.state: dict[str, object] = {}

    def wants_streaming(self) -> bool:
        return False

    def finalize_content(self, context: object, content: object) -> object:
        return content

    async def after_run(self, context: object) -> None:
        reason = getattr(context, "stop_reason", None)
        if reason == "error":
            self.state = {"failed": True, "error": getattr(context, "error", None)}
        elif reason == "max_iterations":
            self.state = {"partial": True}
        told = getattr(context, "usage", None)
        counts = [getattr(told, name, None) for name in ("input_tokens", "output_tokens")]
        if all(type(count) is int and count >= 0 for count in counts):
            self.usage = Usage(
                input_tokens=int(counts[0] or 0),
                output_tokens=int(counts[1] or 0),
                cached_tokens=_count(getattr(told, "cache_read_tokens", None)),
                cache_write_tokens=_count(getattr(told, "cache_write_tokens", None)),
            )

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _nothing


async def _nothing(*_: object, **__: object) -> None:
    return None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
