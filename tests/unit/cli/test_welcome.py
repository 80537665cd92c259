"""The lines to paste are right for every model name and never hold a key."""

import json
import shlex

import pytest

from trunkline.cli.welcome import curl, sdk_exports, sdk_program


@pytest.mark.parametrize("model", ["a", "it's", 'quo"te', "back\\slash", "größe", "$HOME", "`id`"])
def test_the_curl_line_carries_any_model_name_through_a_shell(model: str) -> None:
    words = shlex.split(curl("http://127.0.0.1:1", model=model, secured=False, brief=False))
    assert json.loads(words[words.index("-d") + 1])["model"] == model


@pytest.mark.parametrize("model", ["a", "it's", 'quo"te', "back\\slash", "größe", "new\nline"])
def test_the_program_carries_any_model_name_through_python(model: str) -> None:
    program = "\n".join(sdk_program(model, brief=False))
    compile(program, "snippet", "exec")
    assert json.dumps(model, ensure_ascii=False) in program


def test_without_a_model_the_request_leaves_it_to_the_server() -> None:
    words = shlex.split(curl("http://127.0.0.1:1", model=None, secured=False, brief=False))
    assert list(json.loads(words[words.index("-d") + 1])) == ["messages"]


def test_a_secured_server_is_called_with_a_key_from_a_variable() -> None:
    assert '"Authorization: Bearer $TRUNKLINE_API_KEY"' in curl("http://h:1", model="m", secured=True, brief=False)
    assert 'export OPENAI_API_KEY="$TRUNKLINE_API_KEY"' in sdk_exports("http://h:1", secured=True)
