"""What a reloading server looks at between two versions of its files."""

import asyncio
import io
from pathlib import Path

from trunkline.cli.lifecycle import Stop
from trunkline.cli.output import Output
from trunkline.cli.reload import Reloader
from trunkline.cli.serve import ServeOptions

WRONG = "[backends.a]\ntype = 'scripted'\nnonsense = {number}\n"


class Editor(io.StringIO):
    """Someone who saves the file the moment a message is on the screen: twice another mistake, then is done."""

    def __init__(self, config: Path, stop: Stop) -> None:
        super().__init__()
        self._config = config
        self._stop = stop
        self._errors = 0

    def write(self, text: str) -> int:
        if "unknown setting" in text:
            self._errors += 1
            if self._errors == 3:
                self._stop.now()
            else:
                self._config.write_text(WRONG.format(number=10**self._errors))
        return super().write(text)


async def test_a_file_saved_while_its_mistake_is_printed_is_read_again(tmp_path: Path) -> None:
    config = tmp_path / "trunkline.toml"
    config.write_text(WRONG.format(number=1))
    stop = Stop()
    editor = Editor(config, stop)
    output = Output(stdout=io.StringIO(), stderr=editor, environ={})
    async with asyncio.timeout(60):  # a change that was missed is waited for in vain
        await Reloader(ServeOptions(config=config), environ={}, output=output).run(stop)
    assert editor.getvalue().count(f"{config} changed; restarting") == 2
