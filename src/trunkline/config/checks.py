"""What no single key of the configuration can say: whether the settings fit together.

Each rule looks at a decoded Config and yields what is wrong, but not what another rule's mistake would make right by itself:
everything found is reported together. A rule here may know names and addresses, never what lies behind them: whether an
agent imports or a server answers is found out by its backend.
"""

import difflib
import ipaddress
import posixpath
import re
from collections.abc import Callable, Iterator
from urllib.parse import SplitResult, urlsplit

from trunkline.config.agent_names import agent_name, served_name
from trunkline.config.environment import key_variables
from trunkline.config.expect import Problem, join, quoted, unknown
from trunkline.config.profiles import PROFILES
from trunkline.config.schema import Config, EmbeddedSettings, HttpSettings, PythonSettings, ScriptedSettings
from trunkline.config.store_url import store_url_problem

DEFAULT_TENANT = "default"
_BACKEND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"[^:]+:[A-Za-z_][A-Za-z0-9_.]*")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+(:\d+)?(/.*)?|\[[0-9a-fA-F:.]+\](:\d+)?(/.*)?")


def inconsistencies(config: Config) -> Iterator[Problem]:
    """Everything that does not fit together."""
    for rule in RULES:
        if config.backends or rule not in BESIDE_BACKENDS:
            yield from rule(config)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there. Names other than localhost are not resolved: False."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _profile(config: Config) -> Iterator[Problem]:
    name = config.server.profile
    if name not in PROFILES:
        yield Problem("server.profile", unknown(name, PROFILES, what="profile"))


def _keys(config: Config) -> Iterator[Problem]:
    server = config.server
    keys = [(f"server.api_keys[{index}]", key) for index, key in enumerate(server.api_keys)]
    keys += [(f"server.keys[{index}].key", entry.key) for index, entry in enumerate(server.keys)]
    first: dict[str, str] = {}
    for path, key in keys:
        if not key.isascii() or not key.isprintable() or " " in key:
            yield Problem(
                path, "contains spaces, line ends or non-ASCII characters, which no client can send in a header"
            )
        if key in first:
            yield Problem(path, f"is the same key as {first[key]}; a key belongs to one entry")
        first[key] = path
    for index, entry in enumerate(server.keys):
        if entry.name == DEFAULT_TENANT:
            yield Problem(
                f"server.keys[{index}].name",
                f"{DEFAULT_TENANT!r} is reserved: it is the tenant of server.api_keys; choose another name",
            )


def _store(config: Config) -> Iterator[Problem]:
    wrong = store_url_problem(config.store.url)
    if wrong:
        yield Problem("store.url", wrong)


def _open_to_others(config: Config) -> Iterator[Problem]:
    server = config.server
    if not server.host:
        yield Problem("server.host", "expected an address such as '127.0.0.1' or '0.0.0.0', got ''")
    elif not is_loopback(server.host) and not server.api_keys and not server.keys:
        yield Problem(
            "server.host",
            f"{server.host!r} can be reached from other machines and no API key is configured; "
            f"set {key_variables(server.profile)}, or server.api_keys, or listen on '127.0.0.1'",
        )


def _weak_keys(config: Config) -> Iterator[Problem]:
    """A profile whose clients hold the key to a machine wants one that cannot be guessed, where others can reach it."""
    server = config.server
    profile = PROFILES.get(server.profile)
    if profile is None or not server.host or is_loopback(server.host):
        return
    keys = [(f"server.api_keys[{index}]", key) for index, key in enumerate(server.api_keys)]
    keys += [(f"server.keys[{index}].key", entry.key) for index, entry in enumerate(server.keys)]
    for path, key in keys:
        if key.lower() in profile.placeholder_keys:
            yield Problem(
                path,
                f"is a placeholder, and {server.host!r} can be reached from other machines; "
                "make a key of your own, as `openssl rand -hex 32` does",
            )
        elif len(key) < profile.min_key_characters:
            yield Problem(
                path,
                f"has {len(key)} characters, and {server.host!r} can be reached from other machines; "
                f"profile {server.profile!r} wants at least {profile.min_key_characters}, "
                "as `openssl rand -hex 32` makes them",
            )


def _origins(config: Config) -> Iterator[Problem]:
    for index, origin in enumerate(config.server.cors_origins):
        if origin == "*":
            continue
        parts = _split(origin)
        exact = f"{parts.scheme}://{parts.netloc}".lower() if parts is not None else ""
        if parts is None or "://" not in origin or not parts.netloc:
            yield Problem(
                f"server.cors_origins[{index}]", f"expected an origin such as 'https://app.example', got {origin!r}"
            )
        elif origin != exact:
            yield Problem(
                f"server.cors_origins[{index}]",
                f"expected an origin exactly as browsers send it, got {origin!r} (did you mean {exact!r}?)",
            )


def _backends(config: Config) -> Iterator[Problem]:
    if not config.backends:
        yield Problem(
            "backends", "nothing is configured to answer; add a table such as [backends.local] type = 'embedded'"
        )
    for name, settings in config.backends.items():
        path = join("backends", name)
        if not _BACKEND_NAME.fullmatch(name):
            yield Problem(path, f"a backend's name is letters, digits, '-', '_' and '.', got {name!r}")
        match settings:
            case HttpSettings():
                yield from _endpoints(settings, path=f"{path}.endpoints")
                yield from _names(settings.models, path=f"{path}.models")
                if settings.api_key is not None and not settings.api_key.isprintable():
                    yield Problem(
                        f"{path}.api_key", "contains line ends or control characters, which no header can carry"
                    )
            case PythonSettings():
                # Of a file without an attribute more can be said by who may look into it.
                if not _TARGET.fullmatch(settings.target) and not settings.target.endswith(".py"):
                    yield Problem(
                        f"{path}.target",
                        f"expected 'module:attribute' or 'path/file.py:attribute', got {settings.target!r}",
                    )
            case ScriptedSettings():
                yield from _names(settings.models, path=f"{path}.models", least=1)
            case EmbeddedSettings():
                pass


def _endpoints(settings: HttpSettings, *, path: str) -> Iterator[Problem]:
    places: set[object] = set()
    for index, url in enumerate(settings.endpoints):
        wrong = url_problem(url)
        if wrong:
            yield Problem(f"{path}[{index}]", wrong)
            continue
        place = _place(urlsplit(url))
        if place in places:
            yield Problem(f"{path}[{index}]", "is listed twice; to give a server more of the work, raise 'weight'")
        places.add(place)


def doubts(config: Config) -> Iterator[Problem]:
    """What may be right, but seldom is."""
    for name, settings in config.backends.items():
        if isinstance(settings, HttpSettings) and settings.dialect != "ollama_chat":
            for index, url in enumerate(settings.endpoints):
                if not urlsplit(url).path.strip("/"):
                    yield Problem(
                        f"{join('backends', name)}.endpoints[{index}]",
                        f"{without_password(url)!r} has no path; often a base URL ends in /v1",
                    )


def _place(parts: SplitResult) -> object:
    """Where a URL leads, however it is spelled. Who asks is no part of it: an endpoint is named by its place."""
    usual = _PORTS.get(parts.scheme)
    return parts.hostname, None if parts.port == usual else parts.port, parts.path.rstrip("/")


def url_problem(url: str) -> str | None:
    """What is wrong with an endpoint's URL, with a proposal where one can be guessed."""
    parts = _split(url)
    if parts is not None and parts.scheme in {"http", "https"} and parts.hostname:
        if parts.query or parts.fragment:
            return f"expected a base URL without query or fragment, got {without_password(url)!r}"
        if any(part.isspace() for part in url):
            return f"expected a URL without spaces, got {without_password(url)!r}"
        for suffix in ("/chat/completions", "/completions", "/models"):
            if parts.path.rstrip("/").endswith(suffix):
                base = url.rstrip("/").removesuffix(suffix)
                return (
                    f"expected the base URL, got {without_password(url)!r} (did you mean {without_password(base)!r}?)"
                )
        return None
    hint = ""
    if parts is None and url.startswith(("http://", "https://")):
        hint = ": its port is not from 1 to 65535, or a bracket is missing"
    elif _HOST_AND_PORT.fullmatch(url):
        guess = f"http://{url}" if "/" in url else f"http://{url}/v1"
        hint = f" (did you mean {guess!r}?)"
    return f"expected an http(s) URL, got {without_password(url)!r}{hint}"


def _split(url: str) -> SplitResult | None:
    """None where it is no URL at all; a port out of range counts as that."""
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def _names(names: tuple[str, ...], *, path: str, least: int = 0) -> Iterator[Problem]:
    if len(names) < least:
        yield Problem(path, "expected a non-empty list of names, got an empty list")
    for index, name in enumerate(names):
        if not name or not name.isprintable():
            yield Problem(f"{path}[{index}]", f"expected a printable name, got {name!r}")
        if name in names[:index]:
            yield Problem(f"{path}[{index}]", f"{name!r} is listed twice")


def _models(config: Config) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, model in enumerate(config.models):
        path = f"models[{index}]"
        if not model.name.isprintable():
            yield Problem(f"{path}.name", f"expected a printable name, got {model.name!r}")
        if model.name in first:
            yield Problem(
                f"{path}.name",
                f"model {model.name!r} is already models[{first[model.name]}]; "
                "for a fallback list both backends in the routes of one entry",
            )
        first[model.name] = index
        for step, route in enumerate(model.routes):
            if route.backend not in config.backends:
                yield Problem(f"{path}.routes[{step}].backend", _unknown_backend(route.backend, config))


def _unknown_backend(name: str, config: Config) -> str:
    close = difflib.get_close_matches(name, list(config.backends), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown backend {name!r}{hint}; configured: {quoted(config.backends)}"


def static_models(config: Config, backend: str) -> tuple[str, ...] | None:
    """The names a backend offers by itself, where the configuration alone can tell; None: it says so at run time."""
    match config.backends[backend]:
        case ScriptedSettings(models=names) | HttpSettings(models=names):
            return names or None
        case EmbeddedSettings(model_name=str(name)):
            return (name,)
        case PythonSettings(target=target) if _TARGET.fullmatch(target):
            return (served_name(config, backend, target),)
        case _:
            return None


def unlisted_backends(config: Config) -> list[str]:
    """Backends without a [[models]] entry: they offer their models under their own names."""
    routed = {route.backend for model in config.models for route in model.routes}
    return [name for name in config.backends if name not in routed]


def _default_model(config: Config) -> Iterator[Problem]:
    default, profile = config.server.default_model, PROFILES.get(config.server.profile)
    if default is None or (profile is not None and profile.model_choice == "any"):
        return
    known = [model.name for model in config.models]
    for name in unlisted_backends(config):
        names = static_models(config, name)
        if names is None:
            return  # its models are known once it runs
        known += names
    if default not in known:
        yield Problem("server.default_model", unknown(default, known, what="model"))


def _agents(config: Config) -> Iterator[Problem]:
    """Agents that share a model's work without anybody having said so: `agent` in two files of one name."""
    first: dict[str, str] = {}
    for name in unlisted_backends(config):
        settings = config.backends[name]
        if not isinstance(settings, PythonSettings) or not _TARGET.fullmatch(settings.target):
            continue
        called = agent_name(settings.target)
        other = first.setdefault(called, name)
        known = config.backends[other]
        if isinstance(known, PythonSettings) and _agent(settings.target) != _agent(known.target):
            entries = [_entry(one, backend=one) for one in (other, name)]
            yield Problem(
                f"{join('backends', name)}.target",
                f"{settings.target!r} is model {called!r}, and so is {known.target!r} of {join('backends', other)}: each would "
                "get some of the other's requests; give them names:\n" + "\n\n".join(entries),
            )


def _hidden_agents(config: Config) -> Iterator[Problem]:
    """Agents that nobody could ask for, as an entry that leads elsewhere is called like them."""
    entries = {model.name: index for index, model in enumerate(config.models)}
    for name in unlisted_backends(config):
        if not isinstance(config.backends[name], PythonSettings):
            continue
        for called in static_models(config, name) or ():
            if called in entries:
                free = name if name not in entries else f"{name}-agent"
                yield Problem(
                    f"models[{entries[called]}].name",
                    f"{called!r} is also what the agent of {join('backends', name)} is called, and nobody could ask for that one; "
                    f"give it a name that is free:\n{_entry(free, backend=name)}",
                )


def _entry(name: str, *, backend: str) -> str:
    """What to write for a backend to be a model of that name."""
    return f'[[models]]\nname = "{name}"\nroutes = [{{ backend = "{backend}" }}]'


def _agent(target: str) -> tuple[str, str]:
    """A target however its path is spelled."""
    place, _, attribute = target.rpartition(":")
    return posixpath.normpath(place), attribute


def _model_name(config: Config) -> Iterator[Problem]:
    agents = [name for name, settings in config.backends.items() if isinstance(settings, PythonSettings)]
    name = config.server.model_name
    if name is None:
        return
    if len(agents) != 1:
        yield Problem(
            "server.model_name",
            f"names the one python agent that is served, and {len(agents)} are configured; "
            "name models in [[models]] entries instead",
        )
    elif not name or not name.isprintable():
        yield Problem("server.model_name", f"expected a printable name, got {name!r}")


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _profile,
    _keys,
    _backends,
    _models,
    _agents,
    _hidden_agents,
    _default_model,
    _model_name,
    _origins,
    _store,
    _open_to_others,
    _weak_keys,
)
"""In the order in which they are reported: what the file is about first, the address last."""
BESIDE_BACKENDS = frozenset({_models, _default_model, _model_name})
"""What they compare with backends says nothing where none are configured."""
