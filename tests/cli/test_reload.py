"""`--reload`: the next version of the files, without a refused connection and without dying of a broken one."""

import signal
from pathlib import Path

from tests.cli.program import Program

AGENT = "async def agent(turn):\n    yield {text!r}\n"


def write(path: Path, text: str) -> None:
    """Replaces the file at once, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_a_changed_agent_answers_on_the_same_url(tmp_path: Path) -> None:
    agent = tmp_path / "my_agent.py"
    agent.write_text(AGENT.format(text="one"))
    with Program("my_agent.py:agent", "--port", "0", "--reload", cwd=tmp_path, merged=True) as program:
        assert program.ask("hi") == "one"
        write(agent, AGENT.format(text="the second"))
        program.until("my_agent.py changed; restarting")
        assert program.serving_line().endswith(program.url)
        assert program.ask("hi") == "the second"
        assert program.stop(signal.SIGINT) == 0


def test_a_broken_agent_says_where_and_waits_for_the_next_change(tmp_path: Path) -> None:
    agent = tmp_path / "my_agent.py"
    agent.write_text(AGENT.format(text="one"))
    with Program("my_agent.py:agent", "--port", "0", "--reload", cwd=tmp_path, merged=True) as program:
        write(agent, "x = 1\nimport no_such_module\n")
        program.until("my_agent.py:2: ModuleNotFoundError")
        program.until("waiting for a change")
        write(agent, AGENT.format(text="mended"))
        program.serving_line()
        assert program.ask("hi") == "mended"
        assert program.stop() == 0


def test_a_changed_configuration_is_read_again_and_a_wrong_one_is_waited_out(tmp_path: Path) -> None:
    config = tmp_path / "trunkline.toml"
    text = "[server]\nport = 0\n[backends.a]\ntype = 'scripted'\nmodels = ['{name}']\n"
    config.write_text(text.format(name="one"))
    with Program("--config", "trunkline.toml", "--reload", cwd=tmp_path, merged=True) as program:
        assert program.ask("hi", model="one") == "hi"
        write(config, text.format(name="two") + "nonsense = 1\n")
        program.until("backends.a.nonsense: unknown setting")
        write(config, text.format(name="two"))
        assert program.serving_line().endswith(program.url)
        assert program.ask("hi", model="two") == "hi"
        assert program.stop() == 0


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    with Program("scripted", "--port", "0", "--reload", cwd=tmp_path, merged=True) as program:
        program.process.kill()
        program.refuses()
