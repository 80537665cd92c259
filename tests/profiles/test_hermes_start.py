"""`profile = "hermes"`: what is read before the server starts, and what keeps it from starting."""

import pytest

from trunkline.config.load import build_config
from trunkline.config.schema import Config
from trunkline.model.errors import ConfigError

KEY = "0123456789abcdef"
AGENT = {"backends": {"agent": {"type": "python", "target": "bot:agent"}}}
HERMES = {"server": {"profile": "hermes"}, **AGENT}


def read(**environ: str) -> Config:
    return build_config(HERMES, environ=environ)


def test_the_variables_of_its_own_server_are_read() -> None:
    server = read(
        API_SERVER_HOST="0.0.0.0",
        API_SERVER_PORT="9000",
        API_SERVER_KEY=KEY,
        API_SERVER_CORS_ORIGINS="https://a.example, https://b.example,",
        API_SERVER_MODEL_NAME="lucas",
    ).server
    assert (server.host, server.port, server.api_keys, server.model_name) == ("0.0.0.0", 9000, (KEY,), "lucas")
    assert server.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize("port", ["", "http", "80 80", "8642.0"])
def test_a_port_that_is_none_is_the_usual_one(port: str) -> None:
    assert read(API_SERVER_PORT=port).server.port == 8642


def test_variables_of_ours_and_the_file_count_as_ever() -> None:
    ours = read(TRUNKLINE_PORT="1", API_SERVER_PORT="2").server
    assert ours.port == 1
    file = build_config({**HERMES, "server": {"profile": "hermes", "port": 3}}, environ={})
    assert file.server.port == 3
    with pytest.raises(ConfigError, match="TRUNKLINE_PORT: expected an integer"):
        read(TRUNKLINE_PORT="http")


def test_no_other_profile_reads_them() -> None:
    environ = {"API_SERVER_PORT": "9000", "API_SERVER_KEY": KEY}
    for profile in ("openai", "nanobot", "nomyo"):
        server = build_config({"server": {"profile": profile}, **AGENT}, environ=environ).server
        assert (server.port in (8400, 8900), server.api_keys) == (True, ())


def test_the_profile_may_come_from_the_environment_too() -> None:
    config = build_config(AGENT, environ={"TRUNKLINE_PROFILE": "hermes", "API_SERVER_KEY": KEY})
    assert (config.server.port, config.server.api_keys) == (8642, (KEY,))


def test_it_keeps_a_hundred_responses_unless_the_file_says_otherwise() -> None:
    assert read().store.max_responses == 100
    config = build_config({**HERMES, "store": {"max_responses": 5}}, environ={})
    assert (config.store.max_responses, config.store.url) == (5, read().store.url)
    assert build_config(AGENT, environ={}).store.max_responses == 10_000


@pytest.mark.parametrize(
    ("profile", "variables"),
    [
        ("hermes", "TRUNKLINE_API_KEY or API_SERVER_KEY"),
        ("nanobot", "TRUNKLINE_API_KEY"),
        ("openai", "TRUNKLINE_API_KEY"),
    ],
)
def test_others_can_reach_it_only_with_a_key(profile: str, variables: str) -> None:
    open_to_all = {"server": {"profile": profile, "host": "0.0.0.0"}, **AGENT}
    with pytest.raises(ConfigError, match=f"no API key is configured; set {variables}, or server.api_keys, or listen"):
        build_config(open_to_all, environ={})
    assert build_config(open_to_all, environ={"TRUNKLINE_API_KEY": KEY}).server.host == "0.0.0.0"


def test_a_key_that_can_be_guessed_is_for_loopback_only() -> None:
    with pytest.raises(ConfigError, match=r"^API_SERVER_KEY: has 6 characters.*wants at least 16") as caught:
        read(API_SERVER_HOST="0.0.0.0", API_SERVER_KEY="secret")
    assert "secret" not in caught.value.message
    assert read(API_SERVER_KEY="secret").server.api_keys == ("secret",)
    named = {"name": "ann", "key": "short"}
    with pytest.raises(ConfigError, match=r"^server\.keys\[0\]\.key: has 5 characters"):
        build_config({"server": {"profile": "hermes", "host": "0.0.0.0", "keys": [named]}, **AGENT}, environ={})
