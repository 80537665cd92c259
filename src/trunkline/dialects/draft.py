"""A client's request under construction, whatever its dialect.

Top-level parameters are a table: the key, and the function that reads it into the draft. A key outside the table is kept in
`extra`; one that is opaque is defined by the API, but only a backend of this dialect can honour it.
"""

from collections.abc import Callable, Container, Mapping
from typing import NoReturn

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import InvalidParameter
from trunkline.model.request import Request, ToolChoice


class Draft:
    """Request fields, what was asked for by which name, and what nothing names. Raises RequestError for what is no JSON object."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.source = reading.decode_body(body)
        self.fields: dict[str, object] = {}
        self.asked: dict[str, str] = {}
        self.extra: dict[str, msgspec.Raw] = {}

    def ask(self, canonical: str, wire: str | None = None) -> None:
        self.asked[canonical] = wire or canonical

    def put(self, field: str, value: object, wire: str | None = None) -> None:
        """A field whose value asks something of the backend."""
        self.fields[field] = value
        self.asked[field] = wire or field

    def read(
        self,
        readers: "Mapping[str, Reader]",
        *,
        apart: Container[str],
        named: Container[str],
        opaque: Container[str] = (),
    ) -> None:
        """Every member that is not null. `apart`: those that are read elsewhere; `named`: all that this API reads. Raises
        RequestError."""
        for key, value in self.source.items():
            if value is None or key in apart:
                continue
            reader = readers.get(key)
            if reader is not None:
                reader(self, value)
            else:
                self.extra[key] = reading.unnamed(key, value, named)
                if key in opaque:
                    self.asked[key] = key

    def read_model(self) -> str | None:
        model = self.source.get("model")
        return None if model is None else reading.text(model, "model")

    def check_tools(self) -> bool:
        """Whether a tool may be called; then one that is chosen has to be there. Raises InvalidParameter for a choice of none."""
        choice = self.fields.get("tool_choice")
        if not self.fields.get("tools"):
            if choice not in (None, "none", "auto"):
                raise InvalidParameter("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
            self.asked.pop("parallel_tool_calls", None)
            return False
        if choice == "none":
            self.asked.pop("tools", None)
        return choice != "none"

    def request(self) -> Request:
        return Request(**self.fields, asked=self.asked, extra=self.extra)  # type: ignore[arg-type]  # each reader typed its field


Reader = Callable[[Draft, Json], None]


def number(name: str, *, low: float | None = None, high: float | None = None) -> Reader:
    def read(draft: Draft, value: Json) -> None:
        draft.fields[name] = reading.number(value, name, low=low, high=high)
        draft.asked[name] = name

    return read


def integer(name: str, *, low: int | None = None, field: str | None = None) -> Reader:
    canonical = field or name

    def read(draft: Draft, value: Json) -> None:
        draft.fields[canonical] = reading.integer(value, name, low=low)
        draft.asked[canonical] = name

    return read


def text(name: str, *, asks: bool = False) -> Reader:
    def read(draft: Draft, value: Json) -> None:
        draft.fields[name] = reading.text(value, name)
        if asks:
            draft.ask(name)

    return read


def switch(name: str) -> Reader:
    def read(draft: Draft, value: Json) -> None:
        draft.fields[name] = reading.lenient_boolean(value, name)

    return read


def parallel_tool_calls(draft: Draft, value: Json) -> None:
    draft.fields["parallel_tool_calls"] = reading.boolean(value, "parallel_tool_calls")
    if value is False:
        draft.ask("parallel_tool_calls")


def tool_choice(of_object: Callable[[Object], ToolChoice]) -> Reader:
    """A word, or an object, which is each API's own."""

    def read(draft: Draft, value: Json) -> None:
        if isinstance(value, str):
            choice = reading.one_of(value, "tool_choice", ("none", "auto", "required"))
            draft.fields["tool_choice"] = choice
            if choice == "required":
                draft.ask("tool_choice")
        elif isinstance(value, dict):
            draft.put("tool_choice", of_object(value))
        else:
            reading.wrong_type("tool_choice", "a string or an object", value)

    return read


def chosen_tool_not_found(name: str) -> NoReturn:
    raise InvalidParameter(
        f"Tool choice '{reading.shorten(name)}' not found in 'tools' parameter.", param="tool_choice"
    )
