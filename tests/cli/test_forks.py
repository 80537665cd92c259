"""What an agent forks, as `multiprocessing` does on Linux, is a process of its own and not a second server."""

import json
import socket
from pathlib import Path

import pytest

from tests.cli.program import Program

HEAD = """
import logging, multiprocessing, signal, sys, threading

forking = multiprocessing.get_context("fork")

def started(target, *arguments, daemon=True):
    process = forking.Process(target=target, args=arguments, daemon=daemon)
    process.start()
    return process

"""
STAYS = """
def agent(turn):
    process = started(signal.pause)
    yield str(process.pid)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    return tmp_path / "bot.py"


def test_what_a_forked_process_says_is_in_the_log(agent: Path) -> None:
    agent.write_text(
        HEAD
        + """
def work():
    print("printed")
    print("lone \\udcff", file=sys.stderr)
    logging.getLogger("trunkline.agent").warning("logged")
    raise ValueError("raised")

def agent(turn):
    process = started(work)
    process.join()
    yield str(process.exitcode)
"""
    )
    with Program("bot.py:agent", "--port", "0", cwd=agent.parent) as program:
        assert program.ask("go") == "1"
        assert program.stop() == 0
        log = program.errors()
    assert [said for said in ("printed\n", "lone \\udcff\n", "logged", "ValueError: raised\n") if said not in log] == []


def test_a_forked_process_waits_for_no_thread_that_it_has_not(agent: Path) -> None:
    """Of those forked while another thread prints half had its lock taken, for ever."""
    agent.write_text(
        HEAD
        + """
def agent(turn):
    enough = threading.Event()

    def chat():
        while not enough.is_set():
            print(end="x")

    thread = threading.Thread(target=chat)
    thread.start()
    for _ in range(20):
        process = started(print, "y")
        process.join()
        yield str(process.exitcode)
    enough.set()
    thread.join()
"""
    )
    with Program("bot.py:agent", "--port", "0", cwd=agent.parent) as program:
        assert program.ask("go") == "0" * 20


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_forked_process_and_not_the_server(agent: Path, number: str) -> None:
    agent.write_text(
        HEAD
        + f"""
import os

def agent(turn):
    process = started(signal.pause)
    os.kill(process.pid, signal.{number})
    process.join()
    yield signal.Signals(-process.exitcode).name
"""
    )
    with Program("bot.py:agent", "--port", "0", cwd=agent.parent) as program:
        assert [program.ask("go"), program.ask("again")] == [number, number]
        assert program.stop() == 0


def test_a_server_stops_whose_agent_has_left_a_process_behind(agent: Path) -> None:
    agent.write_text(HEAD + STAYS)
    with Program("bot.py:agent", "--port", "0", cwd=agent.parent) as program:
        assert program.ask("go")
        assert program.stop() == 0


def test_a_process_that_outlives_its_server_holds_neither_its_port_nor_its_store(agent: Path) -> None:
    agent.write_text(
        HEAD
        + """
import os

def agent(turn):
    if turn.input.isdecimal():
        os.kill(int(turn.input), signal.SIGKILL)
        return
    yield str(started(signal.pause).pid)
"""
    )
    config = agent.parent / "trunkline.toml"
    config.write_text('[store]\nurl = "sqlite:///bot.db"\n[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n')
    with Program("--config", "trunkline.toml", "--port", "0", cwd=agent.parent) as program:
        pid = program.ask("go", model="bot")
        port = program.url.rpartition(":")[2]
        program.process.kill()
        program.process.wait()
    with Program("--config", "trunkline.toml", "--port", port, cwd=agent.parent) as program:
        program.ask(pid, model="bot")


def test_a_connection_that_the_server_closes_is_closed_though_a_forked_process_lives(agent: Path) -> None:
    """A client that keeps connections would send its next request to nobody, and wait for the answer."""
    agent.write_text(HEAD + STAYS)
    with Program("bot.py:agent", "--port", "0", cwd=agent.parent) as program:
        body = json.dumps({"messages": [{"role": "user", "content": "go"}]}).encode()
        with socket.create_connection(("127.0.0.1", int(program.url.rpartition(":")[2]))) as sock:
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            while sock.recv(65_536):
                pass
        assert program.stop() == 0
