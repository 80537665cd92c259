"""The lines to paste are right for every model name and never hold a key."""

import io
import json
import shlex

import pytest

from trunkline.cli.output import Output
from trunkline.cli.welcome import curl, print_welcome, sdk_exports, sdk_program
from trunkline.config.environment import key_variable
from trunkline.config.load import build_config


@pytest.mark.parametrize("model", ["a", "it's", 'quo"te', "back\\slash", "größe", "$HOME", "`id`"])
def test_the_curl_line_carries_any_model_name_through_a_shell(model: str) -> None:
    words = shlex.split(curl("http://127.0.0.1:1", model=model, key=None, brief=False))
    assert json.loads(words[words.index("-d") + 1])["model"] == model


@pytest.mark.parametrize("model", ["a", "it's", 'quo"te', "back\\slash", "größe", "new\nline"])
def test_the_program_carries_any_model_name_through_python(model: str) -> None:
    program = "\n".join(sdk_program(model, brief=False))
    compile(program, "snippet", "exec")
    assert json.dumps(model, ensure_ascii=False) in program


def test_where_no_model_is_known_yet_the_lines_have_a_place_for_it_and_say_so() -> None:
    words = shlex.split(curl("http://127.0.0.1:1", model=None, key=None, brief=False))
    assert json.loads(words[words.index("-d") + 1])["model"] == "MODEL"
    assert 'model="MODEL"' in sdk_program(None, brief=False)[1]
    config = build_config({"backends": {"up": {"type": "http", "endpoints": ["http://127.0.0.1:1/v1"]}}}, environ={})
    written = io.StringIO()
    output = Output(stdout=written, stderr=written, environ={})
    print_welcome(output, config=config, url="http://127.0.0.1:2", models=())
    assert "(No model is listed yet. Put one of http://127.0.0.1:2/v1/models in place of MODEL.)" in written.getvalue()
    assert 'model=""' not in written.getvalue()


def test_a_secured_server_is_called_with_a_key_from_a_variable() -> None:
    assert '"Authorization: Bearer $API_SERVER_KEY"' in curl("http://h:1", model="m", key="API_SERVER_KEY", brief=False)
    assert 'export OPENAI_API_KEY="$API_SERVER_KEY"' in sdk_exports("http://h:1", key="API_SERVER_KEY")


def test_the_variable_is_the_one_that_the_key_was_read_from() -> None:
    for environ, profile, variable in (
        ({"API_SERVER_KEY": "k"}, "hermes", "API_SERVER_KEY"),
        ({"API_SERVER_KEY": "k", "TRUNKLINE_API_KEY": "l"}, "hermes", "TRUNKLINE_API_KEY"),
        ({"NOMYO_ROUTER_API_KEY": "k"}, "nomyo", "NOMYO_ROUTER_API_KEY"),
    ):
        document = {"server": {"profile": profile}, "backends": {"a": {"type": "scripted"}}}
        server = build_config(document, environ=environ).server
        assert key_variable(environ, profile=profile, api_keys=server.api_keys) == variable
    assert key_variable({"API_SERVER_KEY": "k"}, profile="openai", api_keys=["k"]) is None


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", None),
        ("localhost", None),
        ("0.0.0.0", "open to other machines at this one's addresses; they need one of the configured keys"),
        ("::", "open to other machines at this one's addresses; they need one of the configured keys"),
        ("192.0.2.7", "open to other machines; they need one of the configured keys"),
    ],
)
def test_a_server_that_others_can_reach_says_so(host: str, said: str | None) -> None:
    document = {"server": {"host": host, "api_keys": ["k"]}, "backends": {"a": {"type": "scripted"}}}
    written = io.StringIO()
    output = Output(stdout=written, stderr=written, environ={})
    print_welcome(output, config=build_config(document, environ={}), url="http://127.0.0.1:2", models=["scripted"])
    models, second, *_ = written.getvalue().splitlines()
    assert (models, second) == ("models: scripted", said or "")
