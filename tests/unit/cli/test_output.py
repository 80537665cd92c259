"""Colours only for people."""

import asyncio
import io

import pytest

from trunkline.cli.output import Output, Style, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_need_a_terminal_and_no_objection(stream: io.StringIO, environ: dict[str, str], coloured: bool) -> None:
    Output(stdout=stream, stderr=io.StringIO(), environ=environ).line("x", style=Style.STRONG)
    assert stream.getvalue() == ("\x1b[1mx\x1b[0m\n" if coloured else "x\n")


def test_a_terminal_without_our_characters_still_gets_the_message() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output(stdout=stream, stderr=stream, environ={}).note("loading …")
    assert raw.getvalue() == b"loading ?\n"


async def test_progress_is_one_line_where_nobody_watches() -> None:
    stderr = io.StringIO()
    async with Output(stdout=io.StringIO(), stderr=stderr, environ={}).progress("loading x"):
        pass
    assert stderr.getvalue() == "loading x …\n"


async def test_progress_on_a_terminal_ends_its_line_and_its_task() -> None:
    stderr = Terminal()
    async with Output(stdout=io.StringIO(), stderr=stderr, environ={}).progress("loading x"):
        assert len(asyncio.all_tasks()) == 2
    assert stderr.getvalue() == "loading x \n"
    assert len(asyncio.all_tasks()) == 1


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "B"), [("long", "x"), ("y", "z")]) == ["A     B", "long  x", "y     z"]
