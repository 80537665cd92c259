"""The environment variables trunkline itself reads: one table, laid over the file and under the command line's flags.

Precedence: flag, then variable, then file, then default. The list is short on purpose: what changes between two places
where the same file is deployed. Everything else belongs in the file, which may name any variable as `${NAME}`.
"""

import os
from collections.abc import Collection, Mapping
from typing import Literal

import msgspec


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """One setting that may come from outside the file.

    Attributes:
        variable: Environment variable; an empty one counts as not set.
        flag: Flag of `trunkline serve`, where there is one.
        key: Dotted key in the file.
        kind: How the text becomes a value: as it is, as a number, as a list of one, as a list that commas part, or as the URL of a
            store in that file.
        lenient: A text that is no number counts as not set; otherwise it is an error.
        profile: The only profile under which it is read; absent: any. A key set by another variable before stays.
        doc: What it is for.
    """

    variable: str
    key: str
    doc: str
    flag: str | None = None
    kind: Literal["text", "integer", "list", "names", "file"] = "text"
    lenient: bool = False
    profile: str | None = None

    def counts(self, text: str | None) -> bool:
        """Whether the variable is set to something."""
        return bool(text) and not (self.lenient and isinstance(self.value(text or ""), str))

    def value(self, text: str) -> object:
        """The text as the file would have it. What is no number stays text: the schema then says what it should be."""
        if self.kind == "list":
            return [text]
        if self.kind == "names":
            return [name.strip() for name in text.split(",") if name.strip()]
        if self.kind == "file":
            return f"sqlite:///{text}"
        if self.kind == "integer":
            digits = text.removeprefix("-")
            return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else text
        return text


OVERRIDES = (
    Override(variable="TRUNKLINE_HOST", flag="--host", key="server.host", doc="Address to listen on."),
    Override(
        variable="TRUNKLINE_PORT",
        flag="--port",
        key="server.port",
        kind="integer",
        doc="Port to listen on; 0 takes a free one.",
    ),
    Override(variable="TRUNKLINE_PROFILE", flag="--profile", key="server.profile", doc="Wire settings to speak with."),
    Override(
        variable="TRUNKLINE_API_KEY",
        key="server.api_keys",
        kind="list",
        doc="The bearer token clients send; replaces the list of the file. There is no flag: other users of a machine "
        "can read a process's arguments.",
    ),
    Override(
        variable="TRUNKLINE_LOG_LEVEL", flag="--log-level", key="server.log_level", doc="How much goes to the log."
    ),
    Override(
        variable="NOMYO_ROUTER_API_KEY",
        key="server.api_keys",
        kind="list",
        profile="nomyo",
        doc="The same as `TRUNKLINE_API_KEY`; read under the profile `nomyo` only.",
    ),
    Override(
        variable="NOMYO_ROUTER_DB_PATH",
        key="store.url",
        kind="file",
        profile="nomyo",
        doc="The store's file; read under the profile `nomyo` only.",
    ),
    Override(
        variable="API_SERVER_HOST",
        key="server.host",
        profile="hermes",
        doc="The same as `TRUNKLINE_HOST`; read under the profile `hermes` only, as the next four.",
    ),
    Override(
        variable="API_SERVER_PORT",
        key="server.port",
        kind="integer",
        lenient=True,
        profile="hermes",
        doc="The same as `TRUNKLINE_PORT`; what is no number counts as not set.",
    ),
    Override(
        variable="API_SERVER_KEY",
        key="server.api_keys",
        kind="list",
        profile="hermes",
        doc="The same as `TRUNKLINE_API_KEY`.",
    ),
    Override(
        variable="API_SERVER_CORS_ORIGINS",
        key="server.cors_origins",
        kind="names",
        profile="hermes",
        doc="Browser origins that may call, with commas between them.",
    ),
    Override(
        variable="API_SERVER_MODEL_NAME",
        key="server.model_name",
        profile="hermes",
        doc="Name under which a single agent is shown.",
    ),
)


def key_variable(environ: Mapping[str, str], *, profile: str, api_keys: Collection[str]) -> str | None:
    """The variable that one of these keys was read from."""
    return next((variable for variable in _read_for_keys(profile) if environ.get(variable) in api_keys), None)


def key_variables(profile: str) -> str:
    """The variables that a key may be set by, in words."""
    return " or ".join(_read_for_keys(profile))


def _read_for_keys(profile: str) -> list[str]:
    return [one.variable for one in OVERRIDES if one.key == "server.api_keys" and one.profile in (None, profile)]


PROCESS_ENVIRON: Mapping[str, str] = os.environ  # the one place; everything above takes a mapping
