"""The benchmark's own parts: what it reads of /proc, what it prints, that it runs end to end. Nothing here is timed."""

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench import peers, processes, sessions, translate
from bench.cases import CASES, TARGETS, Case, Pacing, Target
from bench.instructions import read_total
from bench.native_tools import BenchError, build_tools, find_compiler
from bench.profile import shares
from bench.run import Run, above_one, added_latency, compared, drive, quick
from bench.servers import BENCH, ROOT, Setting, default_launcher, missing, running_mock
from bench.table import Figure, render

STAT = (
    "{pid} ({name}) S {parent} 7 7 0 -1 4194560 9 9 9 9 {user} {system} 90 91 20 0 1 0 5 1000 200 18446744073709551615"
)

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="NO C COMPILER: the benchmark itself is not tested")


def figure(target: Target, value: float, *, measure: str = "event", unit: str = "µs CPU", run: int = 0) -> Figure:
    return Figure(measure=measure, unit=unit, target=target, value=value, run=run)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(build_tools(), processes.choose_cores(), tmp_path, default_launcher(), None)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with 10 → 11 → 12, and 13 that is nobody's business."""
    for pid, parent, name in ((10, 1, "server"), (11, 10, "worker (1) S 1"), (12, 11, "a b"), (13, 1, "other")):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(STAT.format(pid=pid, name=name, parent=parent, user=pid * 100, system=pid))
        (folder / "statm").write_text("1000 20 3 1 0 50 0")
    (tmp_path / "self").mkdir()
    return tmp_path


def test_stat_is_read_whatever_the_process_is_called() -> None:
    text = STAT.format(pid=7, name="x) R 9 (y", parent=3, user=41, system=17)
    assert processes.parse_stat(text) == processes.Stat(parent=3, user_ticks=41, system_ticks=17)


def test_cpu_time_and_memory_are_those_of_the_process_and_all_that_it_started(proc: Path) -> None:
    pids = processes.descendants(10, proc=proc)
    assert sorted(pids) == [10, 11, 12]
    cpu = processes.cpu_time(pids, proc=proc)
    assert cpu.user_s == pytest.approx(3300 * processes.TICK_S)
    assert cpu.system_s == pytest.approx(33 * processes.TICK_S)
    assert cpu.since(processes.CpuTime(1.0, 0.0)).total_s == pytest.approx(3333 * processes.TICK_S - 1.0)
    assert processes.resident_bytes(pids, proc=proc) == 3 * 20 * processes.PAGE_BYTES


def test_a_process_that_has_ended_counts_as_nothing(proc: Path) -> None:
    assert processes.cpu_time([99], proc=proc).total_s == 0
    assert processes.resident_bytes([99], proc=proc) == 0


def test_the_kernels_own_proc_is_read() -> None:
    pids = processes.descendants(os.getpid())
    assert pids[0] == os.getpid()
    assert processes.cpu_time(pids).total_s > 0
    assert processes.resident_bytes(pids) > 1_000_000


def test_what_is_started_runs_on_its_core_and_ours_are_given_back(tmp_path: Path) -> None:
    ours = os.sched_getaffinity(0)
    core = processes.choose_cores().server
    told = "import os; print(sorted(os.sched_getaffinity(0)))"
    process = processes.start([sys.executable, "-c", told], core=core, folder=tmp_path)
    try:
        assert process.communicate()[0].strip() == f"[{core}]"
    finally:
        processes.stop(process)
    assert os.sched_getaffinity(0) == ours


def test_stopping_ends_what_the_process_started_too(tmp_path: Path) -> None:
    """The child outlives its parent's SIGTERM, and is ended all the same: its end closes the pipe that it holds."""
    script = "sleep 600 & echo started; wait"
    process = processes.start(["sh", "-c", script], core=processes.choose_cores().load, folder=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    held = os.fdopen(os.dup(process.stdout.fileno()))
    processes.stop(process)
    assert held.read() == ""
    held.close()


def test_the_table_has_medians_ranges_and_one_ratio() -> None:
    figures = [figure("trunkline", value, run=run) for run, value in enumerate((64.0, 50.0, 62.0))]
    figures += [figure("bare", 31.0), figure("nginx", 15.26), figure("bare", 1234.5, measure="memory", unit="KB")]
    assert render(figures).splitlines() == [
        "| measure | unit | nginx `proxy_pass` | bare uvicorn + Starlette + aiohttp | trunkline | trunkline ÷ bare |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| event | µs CPU | 15.3 | 31.0 | 62.0 (50.0–64.0) | 2.00 |",
        "| memory | KB |  | 1,234 |  |  |",
    ]


def test_the_table_compares_with_each_gateway_that_was_measured() -> None:
    rows = render([figure("litellm", 9000.0), figure("smg", 100.0), figure("bare", 120.0), figure("trunkline", 180.0)])
    assert rows.splitlines()[0].endswith("| trunkline ÷ bare | trunkline ÷ smg | trunkline ÷ litellm |")
    assert rows.splitlines()[2].endswith("| 1.50 | 1.80 | 0.02 |")


def test_the_table_has_no_ratio_where_one_side_was_not_measured() -> None:
    assert "÷" not in render([figure("bare", 31.0)])


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_started_from_its_own_environment_with_every_place_filled_in(name: str, tmp_path: Path) -> None:
    program, *words = peers.command_of(
        name, port=1111, other_port=2222, upstream="http://127.0.0.1:3333", build=tmp_path
    )
    assert Path(program).parent == tmp_path / name / "bin"
    assert "1111" in words
    assert not [word for word in words if "{" in word]


def test_a_peer_counts_as_installed_only_whole_and_in_the_version_that_is_named(tmp_path: Path) -> None:
    stamp = tmp_path / "smg" / "installed"
    assert not peers.is_installed("smg", build=tmp_path)
    stamp.parent.mkdir()
    stamp.write_text("smg==0.0.1")
    assert not peers.is_installed("smg", build=tmp_path)
    stamp.write_text(peers.PEERS["smg"].requirement)
    assert peers.is_installed("smg", build=tmp_path)
    assert peers.install("smg", build=tmp_path), "what is there is left alone"


def test_what_is_not_here_is_said_with_what_to_do() -> None:
    assert missing("nginx", nginx=None) == "apt install nginx-light"
    assert missing("nginx", nginx="/usr/sbin/nginx") is None
    assert missing("trunkline", nginx=None) is None


def test_a_peer_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--only", "smg,other"])
    assert "unknown 'other'; there are smg, vllm-router, litellm" in capsys.readouterr().err


def test_added_latency_is_what_is_above_the_mocks_own() -> None:
    measured = [
        figure("direct", 0.1, unit="ms"),
        figure("direct", 0.3, unit="ms", run=1),
        figure("trunkline", 1.2, unit="ms"),
    ]
    added = added_latency([*measured, figure("trunkline", 5.0, measure="other")])
    assert [(f.target, f.measure) for f in added] == [("trunkline", "added to the event")]
    assert added[0].value == pytest.approx(1.0)


def test_many_streams_are_compared_with_a_single_one_of_the_same_repeat() -> None:
    alone, many = (f"{CASES[name].title}, p50" for name in ("agents-sync-1", "agents-sync"))
    measured = [figure("trunkline", 2.0 + run, measure=alone, unit="ms", run=run) for run in range(2)]
    measured += [figure("trunkline", 20.0 * (run + 1), measure=many, unit="ms", run=run) for run in range(3)]
    later = above_one([*measured, figure("bare", 9.0, measure=many, unit="ms")])
    assert [(f.target, f.run, f.value) for f in later] == [("trunkline", 0, 18.0), ("trunkline", 1, 37.0)]
    assert {f.measure for f in later} == {f"{many}, above one stream's"}


@pytest.mark.parametrize("name", ["agent", "agent-threads"])
def test_an_agents_event_is_compared_with_a_relayed_one_at_the_same_pace(name: str) -> None:
    relayed = CASES["stream"]
    assert relayed.pacing == Pacing(events=CASES[name].events, interval_ms=20)
    assert CASES[name].connections == relayed.connections
    measured = [figure("trunkline", 30.0, measure=relayed.title), figure("trunkline", 45.0, measure=CASES[name].title)]
    assert [(f.measure, f.value) for f in compared(measured)] == [(CASES[name].title, 1.5)]


def test_every_case_has_the_files_that_it_names() -> None:
    for name, case in CASES.items():
        assert (BENCH / "bodies" / f"{case.body}.json").is_file(), name
        assert (BENCH / f"{case.config}.toml").is_file(), name
        assert set(case.targets) <= set(TARGETS), name
        assert bool(case.pacing) == (case.config == "relay" and case.kind != "translate"), name
        assert quick(case).measured_s <= case.measured_s, name


def test_the_page_says_of_every_case_how_to_run_it() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name in CASES:
        assert re.search(rf"^\| .*`{name}`.* \| `make bench ARGS=\"--cases [a-z0-9,-]*{name}", page, re.M), name


def test_without_a_compiler_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BenchError, match="apt install gcc"):
        build_tools(tmp_path / "build")


STACKS = """\
run (/usr/lib/python3.11/asyncio/runners.py:118);main (/x/site-packages/uvicorn/server.py:70) 30
main (/x/site-packages/uvicorn/server.py:70);send (/x/site-packages/uvicorn/protocols/http/httptools_impl.py:9) 50
write (/srv/project with (odd) name/src/trunkline/server/sse.py:44) 10
run (/usr/lib/python3.11/asyncio/runners.py:118) 5
decode (/usr/lib/python3.11/json/decoder.py:3) 3
epoll_wait 2
"""


def test_samples_count_for_the_package_of_the_innermost_function() -> None:
    packages, functions = shares(STACKS)
    assert packages == {"uvicorn": 80, "trunkline.server": 10, "event loop": 7, "standard library": 3}
    assert functions["trunkline.server: sse.write"] == 10
    assert functions["uvicorn: protocols.http.httptools_impl.send"] == 50


def test_translation_gives_the_client_every_word() -> None:
    written = translate.translate(translate.stream(20))
    assert [f"tok@{number:016d}@" for number in range(20)] == re.findall(r"tok@\d{16}@", written.decode())
    assert written.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("size", [1, 8])
def test_every_way_through_gives_the_client_every_word_once(size: int) -> None:
    reads = translate.joined(translate.stream(20), size=size)
    for way in (translate.relay, translate.translate, translate.to_responses):
        written = re.findall(r'"(?:content|delta)":" tok@(\d{16})@"', way(reads).decode())
        assert written == [f"{number:016d}" for number in range(20)]


def test_translation_is_timed_by_its_fastest_pass() -> None:
    times = iter([0.0, 3.0, 10.0, 12.0, 20.0, 25.0])
    assert translate.us_per_event(4, passes=3, clock=lambda: next(times)) == pytest.approx(2.0 / 4 * 1e6)


@needs_compiler
def test_lost_events_are_no_figure(setting: Setting) -> None:
    case = Case(title="lossy", connections=2, pacing=Pacing(events=6, interval_ms=1), warm_s=0.0, window_s=0.2)
    with running_mock(setting, Pacing(events=5, interval_ms=1)) as mock, pytest.raises(BenchError, match="events lost"):
        drive(setting, mock, case=case)


@needs_compiler
def test_a_refused_request_is_no_figure(setting: Setting, tmp_path: Path) -> None:
    refused = tmp_path / "refuse.toml"
    refused.write_text((BENCH / "scripted.toml").read_text().replace("sk-test", "sk-other"))
    case = Case(title="refused", config=str(refused.with_suffix("")), targets=("trunkline",), window_s=0.1)
    run = Run(setting, open_files=10_000)
    run.measure("refused", case, target="trunkline", run=0)
    assert run.figures == []
    assert "answered 401" in run.problems[0]


@needs_compiler
@pytest.mark.parametrize("name", ["scripted", "scripted-stream"])
def test_a_case_runs_end_to_end(setting: Setting, name: str) -> None:
    tiny = msgspec.structs.replace(CASES[name], connections=2, warm_s=0.0, window_s=0.2)
    run = Run(setting, open_files=10_000)
    for target in tiny.targets:
        run.measure(name, tiny, target=target, run=0)
    assert run.problems == []
    assert [f.target for f in run.figures] == ["bare", "trunkline"]
    assert all(window.load.units > 0 for windows in run.windows.values() for window in windows)
    assert tiny.title in render(run.figures)


@needs_compiler
def test_streams_pass_through_the_relay_without_loss(setting: Setting) -> None:
    pacing = Pacing(events=20, interval_ms=2)
    case = msgspec.structs.replace(CASES["stream"], connections=2, pacing=pacing, warm_s=0.0, window_s=0.3)
    run = Run(setting, open_files=10_000)
    run.measure("stream", case, target="trunkline", run=0)
    assert run.problems == []
    assert run.windows["stream trunkline"][0].load.stamped > 0


def spoken(folder: Path, text: str) -> str:
    """The name of a body that asks an agent for that."""
    body = {"model": "mock", "stream": True, "messages": [{"role": "user", "content": text}]}
    (folder / "agent_stream.json").write_bytes(msgspec.json.encode(body))
    return str(folder / "agent_stream")


@needs_compiler
@pytest.mark.parametrize("name", ["agents-async", "agents-sync"])
def test_bursts_of_agents_bring_every_word_in_order(setting: Setting, tmp_path: Path, name: str) -> None:
    tiny = msgspec.structs.replace(CASES[name], connections=3, window_s=0.1, events=5, body=spoken(tmp_path, "5 1"))
    run = Run(setting, open_files=10_000)
    for target in tiny.targets:
        run.measure(name, tiny, target=target, run=0)
    assert run.problems == []
    assert {(f.measure, f.unit) for f in run.figures} == {(f"{tiny.title}, {which}", "ms") for which in ("p50", "p99")}


@needs_compiler
def test_an_agent_that_says_fewer_words_than_are_due_is_no_figure(setting: Setting, tmp_path: Path) -> None:
    tiny = msgspec.structs.replace(CASES["agents-async"], connections=2, window_s=0.1, events=5)
    tiny = msgspec.structs.replace(tiny, body=spoken(tmp_path, "4 1"))
    run = Run(setting, open_files=10_000)
    run.measure("agents-async", tiny, target="trunkline", run=0)
    assert run.figures == []
    assert "events lost" in run.problems[0]


@needs_compiler
async def test_together_nobody_asks_again_before_all_have_been_answered(tmp_path: Path) -> None:
    answered: Counter[asyncio.StreamWriter] = Counter()
    early = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readline()).startswith(b"POST"):
            await reader.readuntil(b"{}")
            before = answered[writer]
            early.append(before > 0 and (len(answered) < 4 or min(answered.values()) < before))
            answered[writer] += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    (tmp_path / "body").write_text("{}")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = await asyncio.create_subprocess_exec(
            build_tools().load,
            *("-u", str(port), "-B", str(tmp_path / "body"), "-c", "4", "-w", "0", "-d", "200", "-t"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await load.communicate(b"")
    assert msgspec.json.decode(said.splitlines()[-1])["completed"] >= 4
    assert not any(early)


@pytest.mark.parametrize("what", sessions.STORES)
async def test_sessions_are_made_and_measured_whatever_the_store(tmp_path: Path, what: str) -> None:
    found = await sessions.measured(tmp_path, what, sessions=20)
    assert (found.what, found.sessions) == (what, 20)
    assert found.cpu_us_per_turn >= 0


@needs_compiler
def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--cases",
        "request",
        "--targets",
        "direct",
        "--output",
        str(output),
    ]
    done = subprocess.run(command, cwd=BENCH.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "relayed request" in done.stdout
    report = msgspec.json.decode(output.read_bytes())
    assert report["problems"] == []
    assert report["figures"][0]["target"] == "direct"
    assert report["windows"]["request direct"][0]["load"]["completed"] > 0


def test_the_total_of_a_dump_is_read_and_its_absence_is_said() -> None:
    assert read_total("version: 1\nevents: Ir\nsummary: 3180028\n\nfn=(1) x\n") == 3180028
    with pytest.raises(BenchError, match="no total"):
        read_total("version: 1\n")
