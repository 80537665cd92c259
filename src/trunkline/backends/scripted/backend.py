"""The scripted backend behind the port: picks a rule by the last user message and plays it."""

import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec

from trunkline.backends.scripted.play import Player, echo_steps
from trunkline.backends.scripted.script import Rule, Script, load_script
from trunkline.config.schema import ScriptedSettings
from trunkline.model.items import FunctionCallOutput, Item, Message, text_of
from trunkline.model.request import Request
from trunkline.ports.backend import SAMPLING_HINTS, BackendSetup, Capabilities, Context, EventBatch, ModelInfo

HONOURED = frozenset(
    {
        "n",
        "max_output_tokens",
        "max_tool_calls",
        "seed",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
    }
)  # fmt: skip
"""It honours a seed by being the same every time; tools and formats are the script's business."""

ECHO = Rule()


class ScriptedBackend:
    """Answers from a script; without one it repeats the last user message word by word.

    Args:
        settings: its table of the configuration.
        setup: where `settings.script` is looked for; without it, nowhere.
        script: the script itself, for tests; it takes the place of `settings.script`.
        capabilities: what it claims to honour, for tests of what refuses on its behalf.
    """

    def __init__(
        self,
        settings: ScriptedSettings | None = None,
        setup: BackendSetup | None = None,
        *,
        script: Script | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self._settings = settings or ScriptedSettings()
        self._script = script or Script()
        if setup is not None and script is None and self._settings.script is not None:
            path = setup.base_dir / self._settings.script
            self._script = load_script(path, key=f"backends.{setup.name}.script")
        self._capabilities = capabilities or Capabilities(
            parameters=HONOURED,
            hints=SAMPLING_HINTS - HONOURED,
            parts=frozenset({"text", "refusal", "image", "audio", "file"}),
            streaming=self._settings.streaming,
        )
        self._used: dict[int, int] = {}  # rule -> times it applied
        self._active = 0
        self._opened = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def active(self) -> int:
        """Answers being read now. 0 once every reader has finished or left."""
        return self._active

    @property
    def opened(self) -> int:
        """Answers begun so far."""
        return self._opened

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def models(self) -> Sequence[ModelInfo]:
        return tuple(ModelInfo(id=name) for name in self._settings.models)

    async def count_tokens(self, request: Request, context: Context) -> int:
        """Words, as in the usage of its answers."""
        return len((request.instructions or "").split()) + sum([len(_text(item).split()) for item in request.items])

    async def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        text = _last_user_text(request.items)
        rule = self._rule_for(text)
        if not rule.steps:
            rule = msgspec.structs.replace(rule, steps=echo_steps(text))
        words = await self.count_tokens(request, context)
        player = Player(rule, request, context, delay_s=self._settings.delay_s, input_words=words)
        self._opened += 1
        self._active += 1
        try:
            async with contextlib.aclosing(player.batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._active -= 1

    def _rule_for(self, text: str) -> Rule:
        for number, rule in enumerate(self._script.rules):
            used = self._used.get(number, 0)
            if (rule.match is None or rule.match in text) and (rule.times is None or used < rule.times):
                self._used[number] = used + 1
                return rule
        return ECHO


def _text(item: Item) -> str:
    return text_of(item.content, separator="\n") if isinstance(item, Message | FunctionCallOutput) else ""


def _last_user_text(items: Sequence[Item]) -> str:
    for item in reversed(items):
        if isinstance(item, Message) and item.role == "user":
            return text_of(item.content, separator="\n")
    return ""


def build(settings: ScriptedSettings, setup: BackendSetup) -> ScriptedBackend:
    return ScriptedBackend(settings, setup)
