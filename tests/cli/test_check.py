"""`trunkline check` finds what would keep the server from starting, and shows which model goes where."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cli.program import run

ROUTES = """
[server]
default_model = "fast"

[backends.gpu]
type = "http"
endpoints = ["http://u:hunter2@127.0.0.1:9/v1"]

[backends.support]
type = "python"
target = "support_bot.py:agent"

[backends.demo]
type = "scripted"
models = ["demo-1", "demo-2"]

[[models]]
name = "fast"
routes = [{ backend = "gpu", model = "llama" }, { backend = "demo" }]
"""


def write(folder: Path, text: str) -> None:
    (folder / "trunkline.toml").write_text(text)
    (folder / "support_bot.py").write_text("async def agent(turn):\n    yield 'x'\n")


def refusals(folder: Path) -> Iterator[list[str]]:
    """What each command that reads the configuration says of it, line by line."""
    for command in (("check",), ("serve", "--port", "0", "--config")):
        ended = run(*command, "trunkline.toml", cwd=folder)
        assert (ended.returncode, ended.stdout) == (1, "")
        yield ended.stderr.splitlines()


def test_the_resolved_routes_are_printed_as_a_table(tmp_path: Path) -> None:
    write(tmp_path, ROUTES)
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["MODEL", "BACKEND", "TYPE", "ANSWERED", "BY"],
        ["fast", "(default)", "gpu", "http", "llama", "at", "http://127.0.0.1:9/v1", "(openai_chat)"],
        ["then", "demo", "scripted", "repeats", "the", "last", "user", "message"],
        ["support_bot", "support", "python", "support_bot.py:agent"],
        [],
        [
            "trunkline.toml",
            "is",
            "fine:",
            "127.0.0.1:8400,",
            "profile",
            "openai,",
            "no",
            "API",
            "key",
            "(loopback",
            "only),",
            "store",
            "trunkline.db",
        ],
    ]


def test_an_only_agent_is_shown_as_the_profile_calls_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        '[server]\nprofile = "nanobot"\n[backends.support]\ntype = "python"\ntarget = "support_bot.py:agent"\n',
    )
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert ended.stdout.splitlines()[1].split() == ["nanobot", "support", "python", "support_bot.py:agent"]


def test_two_agents_that_nobody_told_apart_are_no_one_model(tmp_path: Path) -> None:
    for name in ("support", "sales"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "agent.py").write_text(f"def agent(turn):\n    return {name!r}\n")
    table = '[backends.{0}]\ntype = "python"\ntarget = "{0}/agent.py:agent"\n'
    write(tmp_path, table.format("support") + table.format("sales"))
    apart = [
        "[[models]]",
        'name = "support"',
        'routes = [{ backend = "support" }]',
        "",
        "[[models]]",
        'name = "sales"',
        'routes = [{ backend = "sales" }]',
    ]
    for first, *rest in refusals(tmp_path):
        assert first == (
            "trunkline: error: config trunkline.toml: backends.sales.target: 'sales/agent.py:agent' is model 'agent', and so "
            "is 'support/agent.py:agent' of backends.support: each would get some of the other's requests; give them names:"
        )
        assert rest == apart
    write(tmp_path, "\n".join([table.format("support") + table.format("sales"), *apart]))
    rows = run("check", "trunkline.toml", cwd=tmp_path).stdout.splitlines()[1:3]
    assert [row.split()[0] for row in rows] == ["support", "sales"]
    # The same agent twice shares its work, as two servers of one model do.
    same = table.format("support") + '[backends.more]\ntype = "python"\ntarget = "./support/agent.py:agent"\n'
    write(tmp_path, same)
    assert run("check", "trunkline.toml", cwd=tmp_path).returncode == 0


def test_an_entry_does_not_silently_take_an_agents_name(tmp_path: Path) -> None:
    """An agent that no entry routes to is called as its target says: where an entry is called so, nobody could ask for it."""
    text = """
        [[models]]
        name = "agent"
        routes = [{ backend = "sales" }]
        [[models]]
        name = "support"
        routes = [{ backend = "sales" }]
        [backends.sales]
        type = "python"
        target = "support_bot.py:agent"
        [backends.support]
        type = "python"
        target = "support/agent.py:agent"
    """
    (tmp_path / "support").mkdir()
    (tmp_path / "support" / "agent.py").write_text("def agent(turn):\n    return 'me'\n")
    write(tmp_path, text)
    entry = ["[[models]]", 'name = "support-agent"', 'routes = [{ backend = "support" }]']
    for first, *rest in refusals(tmp_path):
        assert first == (
            "trunkline: error: config trunkline.toml: models[0].name: 'agent' is also what the agent of backends.support is "
            "called, and nobody could ask for that one; give it a name that is free:"
        )
        assert rest == entry
    write(tmp_path, text + "\n".join(entry))
    rows = run("check", "trunkline.toml", cwd=tmp_path).stdout.splitlines()[1:4]
    assert [row.split()[:2] for row in rows] == [["agent", "sales"], ["support", "sales"], ["support-agent", "support"]]


def test_a_target_without_an_attribute_lists_what_its_file_has(tmp_path: Path) -> None:
    write(tmp_path, '[backends.support]\ntype = "python"\ntarget = "support_bot.py"\n')
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "trunkline: error: config trunkline.toml: backends.support.target: "
        "expected 'module:attribute' or 'path/file.py:attribute', got 'support_bot.py'; "
        "it defines: agent (did you mean 'support_bot.py:agent'?)\n"
    )


def test_an_endpoint_that_may_lack_a_path_is_named(tmp_path: Path) -> None:
    backend = (
        '[backends.{}]\ntype = "http"\nendpoints = ["http://127.0.0.1:9/v1", "http://u:hunter2@127.0.0.1:8{}"]\n{}'
    )
    write(tmp_path, backend.format("gpu", "/", "") + backend.format("old", "", 'dialect = "ollama_chat"'))
    lines = run("check", "trunkline.toml", cwd=tmp_path).stdout.splitlines()
    assert lines[-3:-1] == [
        "",
        "backends.gpu.endpoints[1]: 'http://127.0.0.1:8/' has no path; often a base URL ends in /v1",
    ]
    assert lines[-1].startswith("trunkline.toml is fine")


def test_a_cache_that_could_not_compare_meanings_is_found(tmp_path: Path) -> None:
    write(tmp_path, '[cache]\nsemantic = true\nembedding_model = "nowhere"\n[backends.demo]\ntype = "scripted"\n')
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    lacking = f'{shlex.quote(sys.executable)} -m pip install -e ".[semantic-cache]"' in ended.stderr
    assert lacking or f"there is no {tmp_path / 'nowhere'}" in ended.stderr


def test_each_mistake_is_a_line_up_to_twenty(tmp_path: Path) -> None:
    write(tmp_path, '[server]\nport = "x"\nhots = "a"\n[backends.demo]\ntype = "scriptd"\n')
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert [line.partition("trunkline.toml: ")[2].partition(":")[0] for line in lines] == [
        "server.hots",
        "server.port",
        "backends.demo.type",
    ]
    write(tmp_path, "".join(f"key{number} = 1\n" for number in range(4000)))
    lines = run("check", "trunkline.toml", cwd=tmp_path).stderr.splitlines()
    assert (len(lines), lines[-1]) == (21, "… and more")


def test_a_wrong_file_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    write(tmp_path, ROUTES.replace("http://u:hunter2@127.0.0.1:9/v1", "127.0.0.1:9"))
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "trunkline: error: config trunkline.toml: backends.gpu.endpoints[0]: expected an http(s) URL, "
        "got '127.0.0.1:9' (did you mean 'http://127.0.0.1:9/v1'?)\n"
    )


def test_an_agent_that_does_not_import_is_found(tmp_path: Path) -> None:
    write(tmp_path, ROUTES)
    (tmp_path / "support_bot.py").write_text("\nimport no_such_module\n")
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert ended.returncode == 1
    assert "error: config trunkline.toml: backends.support.target: " in ended.stderr
    assert "support_bot.py:2: ModuleNotFoundError: No module named 'no_such_module'" in ended.stderr


def test_an_embedded_model_is_shown_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, '[backends.local]\ntype = "embedded"\n')
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1].split() == [
        "smollm2-135m-instruct",
        "local",
        "embedded",
        "in",
        "this",
        "process",
    ]


def test_a_missing_model_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, '[backends.local]\ntype = "embedded"\npath = "gone.gguf"\n')
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert ended.returncode == 1
    assert "gone.gguf" in ended.stderr


def test_a_wrong_script_is_found(tmp_path: Path) -> None:
    write(tmp_path, '[backends.demo]\ntype = "scripted"\nscript = "script.toml"\n')
    (tmp_path / "script.toml").write_text("nonsense = 1\n")
    ended = run("check", "trunkline.toml", cwd=tmp_path)
    assert ended.returncode == 1
    assert "nonsense" in ended.stderr


def test_variables_count_as_they_do_for_serve(tmp_path: Path) -> None:
    write(tmp_path, '[server]\nhost = "0.0.0.0"\n[backends.demo]\ntype = "scripted"\n')
    assert run("check", "trunkline.toml", cwd=tmp_path).returncode == 1
    assert run("check", "trunkline.toml", cwd=tmp_path, environ={"TRUNKLINE_API_KEY": "k"}).returncode == 0
