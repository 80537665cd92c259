"""What `serve` prints once it can answer: the URL first, then what it serves and two ways to try it, ready to paste.

The first line is an interface: programs wait for it and take the URL from its end. It says `serving on` and is written
only when a connection made now is answered. Keys are never printed: the pasted lines take one from a shell variable,
the one that the server has it from where it has it from one.
"""

import json
import shlex
from collections.abc import Sequence

from trunkline import __version__
from trunkline.cli.output import Output, Style
from trunkline.config.checks import is_loopback
from trunkline.config.schema import Config, EmbeddedSettings
from trunkline.config.store_url import store_file

KEY_VARIABLE = "TRUNKLINE_API_KEY"
QUESTION = "Say hello in one sentence."
MODELS_SHOWN = 8
EVERY_ADDRESS = ("0.0.0.0", "::")
PLACE = "MODEL"
"""Stands where a model's name belongs as long as nobody has listed one."""


def url_line(output: Output, url: str) -> str:
    return f"trunkline {__version__} serving on {output.styled(url, Style.LINK)}"


def print_welcome(
    output: Output, *, config: Config, url: str, models: Sequence[str], given_in: str | None = None
) -> None:
    """The lines after the URL line. `given_in`: the environment variable that the server has its key from."""
    model = config.server.default_model or next(iter(models), None)
    secured = bool(config.server.api_keys or config.server.keys)
    key = (given_in or KEY_VARIABLE) if secured else None
    output.line(f"models: {_listing(models)}")
    if not is_loopback(config.server.host):
        where = " at this one's addresses" if config.server.host in EVERY_ADDRESS else ""
        need = "they need one of the configured keys" if secured else "they need no key"
        output.line(f"open to other machines{where}; {need}")
    output.line()
    output.line("Try it:", style=Style.STRONG)
    # Nobody waits for a small model to come to an end by itself.
    brief = any(isinstance(backend, EmbeddedSettings) for backend in config.backends.values())
    output.line(f"  {curl(url, model=model, key=key, brief=brief)}")
    output.line()
    output.line("With an OpenAI SDK:", style=Style.STRONG)
    for line in sdk_exports(url, key=key):
        output.line(f"  {line}")
    output.line()
    for line in sdk_program(model, brief=brief):
        output.line(f"  {line}")
    if model is None:
        output.line()
        output.line(f"(No model is listed yet. Put one of {url}/v1/models in place of {PLACE}.)", style=Style.FAINT)
    output.line()
    kept = store_file(config.store.url) or "memory until the server stops; a configuration file can keep it"
    output.line(f"(What is stored is kept in {kept}.)", style=Style.FAINT)
    if key is not None:
        told = "the variable this server has its key from" if given_in else "to hold one of the configured keys"
        output.line()
        output.line(f"({key} is {told}.)", style=Style.FAINT)


def curl(url: str, *, model: str | None, key: str | None, brief: bool) -> str:
    """One shell line that asks for an answer. `key`: the variable that holds one, where one is needed."""
    named: dict[str, object] = {"model": model or PLACE}
    if brief:
        named["max_tokens"] = 60
    body = json.dumps({**named, "messages": [{"role": "user", "content": QUESTION}]}, ensure_ascii=False)
    auth = "" if key is None else f' -H "Authorization: Bearer ${key}"'
    return f"curl -s {url}/v1/chat/completions{auth} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def sdk_exports(url: str, *, key: str | None) -> list[str]:
    """What points an OpenAI SDK here. An SDK insists on some key, also where none is needed."""
    value = "none" if key is None else f'"${key}"'
    return [f"export OPENAI_BASE_URL={url}/v1", f"export OPENAI_API_KEY={value}"]


def sdk_program(model: str | None, *, brief: bool) -> list[str]:
    """Three lines of Python for the same question."""
    message = f'{{"role": "user", "content": "{QUESTION}"}}'
    named = json.dumps(model or PLACE, ensure_ascii=False)
    limit = ", max_tokens=60" if brief else ""
    return [
        "from openai import OpenAI",
        f"answer = OpenAI().chat.completions.create(model={named}, messages=[{message}]{limit})",
        "print(answer.choices[0].message.content)",
    ]


def _listing(models: Sequence[str]) -> str:
    if not models:
        return "none listed yet; see /v1/models"
    shown = ", ".join(models[:MODELS_SHOWN])
    more = len(models) - MODELS_SHOWN
    return f"{shown} and {more} more, see /v1/models" if more > 0 else shown
