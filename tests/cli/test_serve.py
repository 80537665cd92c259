"""What a user sees of `trunkline serve`: its first lines, its refusals, its end."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program, clean_environ, run
from trunkline import __version__

WAITING_AGENT = """
import asyncio
from pathlib import Path

async def agent(turn):
    yield "first "
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    yield "last"
"""


def test_the_first_line_has_the_url_and_a_request_after_it_is_answered(tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", cwd=tmp_path) as program:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", program.url)
        assert program.ask("one two") == "one two"
        assert program.stop() == 0
        assert "Traceback" not in program.errors()


def test_the_first_line_names_the_version_and_nothing_is_coloured_without_a_terminal(tmp_path: Path) -> None:
    program = Program("scripted", "--port", "0", cwd=tmp_path)
    assert program.serving_line().startswith(f"trunkline {__version__} serving on http://")
    program.__exit__(None, None, None)
    assert "\x1b" not in program.errors()


@pytest.mark.parametrize(
    "environ",
    [{}, {"TRUNKLINE_API_KEY": "sk-test"}, {"TRUNKLINE_PROFILE": "hermes", "API_SERVER_KEY": "sk-test"}],
    ids=["open", "secured", "as hermes"],
)
def test_the_curl_line_works_as_it_is_printed(environ: dict[str, str], tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", cwd=tmp_path, environ=environ) as program:
        line = program.until("curl ")[-1].strip()
        assert "sk-test" not in line
        expanded = re.sub(r"\$\w+_KEY", "sk-test", line)
        words = shlex.split(expanded)
        headers = dict(word.split(": ", 1) for flag, word in itertools.pairwise(words) if flag == "-H")
        status, answer = program.post(json.loads(words[words.index("-d") + 1]), headers=headers)
        assert status == 200
        assert answer["choices"][0]["message"]["content"]
        if shutil.which("curl"):
            pasted = subprocess.run(
                ["sh", "-c", line], env=clean_environ(environ), capture_output=True, text=True, check=True
            )
            assert json.loads(pasted.stdout)["choices"] == answer["choices"]


@pytest.mark.parametrize("environ", [{}, {"TRUNKLINE_API_KEY": "sk-test"}], ids=["open", "secured"])
def test_the_sdk_lines_work_as_they_are_printed(environ: dict[str, str], tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", cwd=tmp_path, environ=environ) as program:
        lines = [line.strip() for line in program.until("print(")]
        exports = [line for line in lines if line.startswith("export ")]
        code = "\n".join(lines[lines.index("from openai import OpenAI") :])
        pasted = subprocess.run(
            ["sh", "-c", "; ".join([*exports, 'exec "$0" -c "$1"']), sys.executable, code],
            env=clean_environ(environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert pasted.returncode == 0, pasted.stderr
        assert pasted.stdout.strip() == "Say hello in one sentence."


def test_a_request_without_a_model_is_answered_by_the_target(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text("async def agent(turn):\n    yield 'from the agent'\n")
    with Program("my_agent.py:agent", "--port", "0", cwd=tmp_path) as program:
        assert program.ask("hi") == "from the agent"
        assert program.ask("hi", model="my_agent") == "from the agent"
        status, answer = program.post({"model": "other", "messages": [{"role": "user", "content": "hi"}]})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("profile", "environ", "name"),
    [("nanobot", {}, "nanobot"), ("hermes", {"API_SERVER_MODEL_NAME": "lucas"}, "lucas")],
)
def test_a_target_is_called_as_its_profile_says(
    profile: str, environ: dict[str, str], name: str, tmp_path: Path
) -> None:
    (tmp_path / "my_agent.py").write_text("async def agent(turn):\n    yield 'from the agent'\n")
    arguments = ("my_agent.py:agent", "--profile", profile, "--port", "0")
    with Program(*arguments, cwd=tmp_path, environ=environ) as program:
        assert program.until("models: ")[-1] == f"models: {name}"
        assert f'"model": "{name}"' in program.until("curl")[-1]
        assert program.ask("hi") == program.ask("hi", model=name) == "from the agent"


def test_the_only_model_of_a_server_answers_when_no_model_is_asked_for(tmp_path: Path) -> None:
    hello = {"messages": [{"role": "user", "content": "hi"}]}
    talk = '[[models]]\nname = "{}"\nroutes = [{{backend = "talk"}}]\n'
    backend = '[backends.talk]\ntype = "scripted"\n[store]\nurl = "memory:"\n'
    (tmp_path / "one.toml").write_text(talk.format("a") + backend)
    (tmp_path / "two.toml").write_text(talk.format("a") + talk.format("b") + backend)
    with Program("--config", "one.toml", "--port", "0", cwd=tmp_path) as upstream:
        upstream.until("models: ")
        status, answer = upstream.post(hello)
        assert "'model'. Configured: 'a'" in answer["error"]["message"], "a file names its default model"
        with Program(f"{upstream.url}/v1", "--port", "0", cwd=tmp_path) as program:
            program.until("models: ")
            assert program.ask("hi") == "hi"
    with (
        Program("--config", "two.toml", "--port", "0", cwd=tmp_path) as upstream,
        Program(f"{upstream.url}/v1", "--port", "0", cwd=tmp_path) as program,
    ):
        program.until("models: ")
        status, answer = program.post(hello)
        assert (status, answer["error"]["param"]) == (400, "model")
        assert "'a', 'b'" in answer["error"]["message"]


def test_the_embedded_model_is_named_while_it_loads_and_answers_when_no_model_is_asked_for(tmp_path: Path) -> None:
    with Program("--port", "0", cwd=tmp_path) as program:
        listed = program.line()
        assert program.ask("Say hello.", max_tokens=16)
        name = listed.removeprefix("models: ")
        assert program.errors().startswith(f"loading {name} …\n")
        assert program.stop() == 0
        assert "Traceback" not in program.errors()


def test_a_configurations_store_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "trunkline.toml").write_text('[backends.talk]\ntype = "scripted"\n')
    with Program("--config", "trunkline.toml", "--port", "0", cwd=tmp_path) as program:
        program.until("(What is stored is kept in trunkline.db.)")


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run("serve", "scripted", "--port", str(port), cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        f"trunkline: error: port {port} on 127.0.0.1 is in use; stop what listens there or pass --port N "
        "(0 takes a free one)\n"
    )


REFUSED = {
    "target_and_config": (["scripted", "--config", "x.toml"], "two ways to say what is served"),
    "workers": (["scripted", "--workers", "2"], "--workers: expected 1, got 2: session locks"),
    "command_line_agent": (
        ["claude"],
        "'claude' is a command-line agent; this version of trunkline does not serve those",
    ),
    "configuration_file": (["x.toml"], "serve it with: trunkline serve --config x.toml"),
    "address": (["localhost:11434"], "(did you mean 'http://localhost:11434/v1'?)"),
    "no_such_target": (["nonsense"], "got 'nonsense'"),
    "folder": (["."], ". is a folder"),
    "no_such_file": (["none.py"], "no such file: none.py"),
    "no_such_config": (["--config", "none.toml"], "config none.toml: no such file"),
    "open_to_others": (["scripted", "--host", "0.0.0.0"], "--host: '0.0.0.0' can be reached from other machines"),
    "no_such_host": (["scripted", "--host", "192.0.2.1", "--port", "0"], "192.0.2.1"),
    "profile": (
        ["scripted", "--profile", "none"],
        "--profile: unknown profile 'none'; known: 'hermes', 'nanobot', 'nomyo', 'openai'",
    ),
    "no_such_attribute": (["good.py:nothing", "--port", "0"], "agent"),
    "missing_agent_file": (["gone.py:agent", "--port", "0"], "gone.py"),
    "failing_import": (
        ["bad.py:agent", "--port", "0"],
        "TARGET: cannot import agent bad.py:2: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax_error": (["broken.py", "--port", "0"], "broken.py:1: SyntaxError"),
    "which_attribute": (["good.py"], "it defines: agent, helper; serve one with: trunkline serve good.py:agent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_one_line_and_exit_code_1(case: str, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("def helper(turn): return ''\ndef agent(turn): return ''\ndef _own(): pass\n")
    (tmp_path / "bad.py").write_text("import sys\nimport no_such_module\n")
    (tmp_path / "broken.py").write_text("def agent(turn:\n")
    arguments, expected = REFUSED[case]
    ended = run(
        "serve", *arguments, cwd=tmp_path, environ={"TRUNKLINE_API_KEY": "k"} if case == "no_such_host" else None
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("trunkline: error: ")
    assert expected in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_a_stream_finish_and_exits_with_0(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(WAITING_AGENT)
    with Program("my_agent.py:agent", "--port", "0", cwd=tmp_path) as program, program.stream("hi") as payloads:
        first = next(payloads)
        program.send(number)
        program.refuses()
        (tmp_path / "go").touch()
        rest = list(payloads)
        assert rest[-1] == "[DONE]"
        assert (
            "".join(
                choice["delta"].get("content", "")
                for line in [first, *rest[:-1]]
                for choice in json.loads(line)["choices"]
            )
            == "first last"
        )
        assert program.process.wait() == 0
        assert "Traceback" not in program.errors()


def test_a_stream_left_after_the_grace_ends_with_an_error_and_no_done(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(WAITING_AGENT)
    (tmp_path / "trunkline.toml").write_text(
        "[server]\nport = 0\nshutdown_grace_s = 0\ndefault_model = 'my_agent'\n"
        "[backends.a]\ntype = 'python'\ntarget = 'my_agent.py:agent'\n"
    )
    with Program("--config", "trunkline.toml", cwd=tmp_path) as program, program.stream("hi") as payloads:
        next(payloads)
        program.send(signal.SIGTERM)
        rest = list(payloads)
        assert "[DONE]" not in rest
        assert json.loads(rest[-1])["error"]["type"] == "server_error"
        assert not any('"finish_reason":"stop"' in line for line in rest)
        assert program.process.wait() == 0
        assert "Traceback" not in program.errors()


@pytest.mark.parametrize(
    ("start", "left"),
    [
        ("await asyncio.to_thread(threading.Event().wait)", "threads that have not ended ("),
        ("executor.submit(threading.Event().wait)", "threads that have not ended (own_0)"),
        ("child.start(); pid.write_text(str(child.pid))", "processes that have not ended"),
    ],
)
def test_what_an_agent_has_started_cannot_keep_the_process(tmp_path: Path, start: str, left: str) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "bot.py").write_text(
        "import asyncio, multiprocessing, pathlib, signal, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "executor = ThreadPoolExecutor(thread_name_prefix='own')\n"
        "child = multiprocessing.get_context('fork').Process(target=signal.pause)\n"
        f"pid = pathlib.Path({str(pid)!r})\n"
        "async def agent(turn):\n"
        "    yield 'first'\n"
        f"    {start}\n"
        "    yield 'second'\n"
    )
    with Program("bot.py:agent", "--port", "0", cwd=tmp_path) as program:
        with program.stream("x") as payloads:
            awaited = "first" if start.startswith("await") else "second"
            assert any(awaited in payload for payload in payloads)
        assert program.stop() == 0
        assert f"stopped without waiting for {left}" in program.errors()
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_an_agent_that_swallows_its_cancellation_cannot_keep_the_process(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(
        "import asyncio\n\n\nasync def agent(turn):\n    yield 'one'\n    while True:\n        try:\n"
        "            await asyncio.sleep(3600)\n        except BaseException:\n            pass\n"
    )
    (tmp_path / "trunkline.toml").write_text(
        "[server]\nport = 0\nshutdown_grace_s = 0\ndefault_model = 'my_agent'\n"
        "[backends.a]\ntype = 'python'\ntarget = 'my_agent.py:agent'\n"
    )
    with Program("--config", "trunkline.toml", cwd=tmp_path) as program, program.stream("hi") as payloads:
        next(payloads)
        program.send(signal.SIGTERM)
        assert json.loads(list(payloads)[-1])["error"]["code"] == "server_shutting_down"
        assert program.process.wait() == 0


def test_a_request_head_without_end_is_refused(tmp_path: Path) -> None:
    with (
        Program("scripted", "--port", "0", cwd=tmp_path) as program,
        contextlib.closing(program.connect()) as connection,
    ):
        connection.connect()
        connection.sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a" * 70_000)
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        assert answer.status == 431
        assert "head is larger" in json.loads(answer.read())["error"]["message"]


def test_what_is_not_http_is_refused_in_json(tmp_path: Path) -> None:
    with (
        Program("scripted", "--port", "0", cwd=tmp_path) as program,
        contextlib.closing(program.connect()) as connection,
    ):
        connection.connect()
        connection.sock.sendall(b"NOT HTTP AT ALL\r\n\r\n")
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        assert answer.status == 400
        assert json.loads(answer.read())["error"]["code"] == "invalid_http_request"


def test_a_whole_answer_is_one_write_head_and_body(tmp_path: Path) -> None:
    """Seen from the client: its first read has all of it, every time. Nothing on this machine cuts a write of this size."""
    with (
        Program("scripted", "--port", "0", cwd=tmp_path) as program,
        contextlib.closing(program.connect()) as connection,
    ):
        connection.connect()
        for _ in range(20):
            connection.sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = connection.sock.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length: %d\r\n" % len(body) in head
            assert json.loads(body)["status"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(WAITING_AGENT)
    with Program("my_agent.py:agent", "--port", "0", cwd=tmp_path) as program, program.stream("hi") as payloads:
        next(payloads)
        program.send(number)
        program.refuses()
        assert program.process.poll() is None
        assert program.stop(number) == 128 + number


def test_a_second_signal_ends_it_even_while_an_agent_blocks_the_loop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "blocked")
    (tmp_path / "my_agent.py").write_text(
        "async def agent(turn):\n    open('blocked', 'w').close()\n    while True:\n        pass\n    yield ''\n"
    )
    with Program("my_agent.py:agent", "--port", "0", cwd=tmp_path) as program, program.asking("hi"):
        (tmp_path / "blocked").read_text()  # returns once the agent has opened and closed its end
        while program.process.poll() is None:  # one signal sent twice in a row may arrive as one
            program.send(signal.SIGTERM)
        assert program.process.returncode == 128 + signal.SIGTERM


def test_an_idle_connection_does_not_delay_the_end(tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", cwd=tmp_path) as program:
        connection = program.connect()
        connection.request("GET", "/health")
        connection.getresponse().read()
        assert program.stop() == 0
        connection.close()


def test_connections_that_are_opened_at_that_moment_do_not_delay_the_end(tmp_path: Path) -> None:
    """One that had been accepted and was not among the connections yet was waited for, to the end of the grace and beyond."""
    with Program("scripted", "--port", "0", cwd=tmp_path) as program, contextlib.ExitStack() as opened:
        address = ("127.0.0.1", int(program.url.rpartition(":")[2]))
        program.send(signal.SIGSTOP)
        for _ in range(50):
            opened.enter_context(socket.create_connection(address))
        program.send(signal.SIGTERM)
        program.send(signal.SIGCONT)
        assert program.process.wait() == 0
        assert "grace" not in program.errors()


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", cwd=tmp_path) as program:
        assert program.process.stdout is not None
        program.process.stdout.close()
        assert program.ask("still here") == "still here"
        assert program.stop() == 0


def test_a_model_server_that_is_down_does_not_keep_it_from_serving(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, not listening: refuses
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with Program(url, "--port", "0", cwd=tmp_path) as program:
            status, answer = program.post({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            assert status in {502, 503, 404}
            assert answer["error"]["message"]
            assert program.stop() == 0
