"""The command `trunkline`: reads the arguments and says how it went.

Exit codes: 0 when it did what was asked (a server that was told to stop did), 1 when it could not, with one line on
stderr that says why, 2 for arguments it does not know, 128 + signal when a signal cut it short: the second one, or one that came
before there was a server to stop.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trunkline import __version__
from trunkline.cli.check import check
from trunkline.cli.output import Output
from trunkline.cli.prints import printing_to
from trunkline.cli.reload import serve_reloading
from trunkline.cli.serve import ServeOptions, check_options, serve, served_config
from trunkline.config.environment import OVERRIDES, PROCESS_ENVIRON
from trunkline.model.errors import ConfigError, TrunklineError
from trunkline.telemetry.logs import configure_logging

EPILOG = """\
TARGET is one of
  (nothing)               the embedded model
  my_agent.py:agent       a Python agent; also module:attribute
  http://HOST:PORT/v1     a model server
  scripted                a demonstration that repeats what it is told

A flag wins over its TRUNKLINE_* variable, a variable over the file, the file over the default.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the process's exit code."""
    output = Output(stdout=sys.stdout, stderr=sys.stderr, environ=PROCESS_ENVIRON)
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _run(options, environ=PROCESS_ENVIRON, output=output)
    except TrunklineError as error:
        output.error(_in_terms_of(options, error))
        return 1


def _in_terms_of(options: argparse.Namespace, error: TrunklineError) -> str:
    """The message as the user can act on it: a backend knows its key, but not the file, and a target has no keys."""
    if not isinstance(error, ConfigError) or error.file is not None or not (error.key or "").startswith("backends."):
        return error.message
    file = options.file if options.command == "check" else options.config
    if file is not None:
        return f"config {file}: {error.message}"
    bare = error.message.removeprefix(f"{error.key}: ")
    if options.target is not None:
        return f"TARGET: {bare}"
    return f"{bare}; or name what to serve instead, see trunkline serve --help"


def _run(options: argparse.Namespace, *, environ: Mapping[str, str], output: Output) -> int:
    if options.command == "check":
        check(options.file, environ=environ, output=output)
        return 0
    serving = ServeOptions(
        target=options.target,
        config=options.config,
        flags={
            override.flag: value
            for override in OVERRIDES
            if override.flag and (value := getattr(options, _destination(override.flag))) is not None
        },
        workers=options.workers,
        listen_fd=options.listen_fd,
        again=options.again,
    )
    check_options(serving)
    if options.reload:
        serve_reloading(serving, environ=environ, output=output)
        return 0
    config, base_dir = served_config(serving, environ=environ)
    with printing_to(sys.stderr) as prints:
        configure_logging(config.server.log_level, sys.stderr)
        serve(serving, config=config, base_dir=base_dir, environ=environ, output=output, prints=prints)
    return 0


def _destination(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


class _Command(argparse.ArgumentParser):
    """The arguments of one command. What it does not know it refuses itself: the parser above would show its own usage, which
    says nothing of this command's."""

    def parse_known_args(  # type: ignore[override]  # a namespace of another class is nothing that we pass
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def make_parser() -> argparse.ArgumentParser:
    """The arguments of every command. The reference in docs/cli.md is generated from it."""
    parser = argparse.ArgumentParser(
        prog="trunkline", description="One OpenAI-compatible server in front of whatever answers.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"trunkline {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)
    serving = commands.add_parser(
        "serve",
        help="serve a model, an agent or a model server",
        description="Serves a model, an agent or a model server under the OpenAI API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    serving.add_argument("target", nargs="?", metavar="TARGET", help="what to serve; absent: the embedded model")
    serving.add_argument("--config", type=Path, metavar="FILE", help="serve what this TOML file says")
    serving.add_argument("--host", metavar="H", help="address to listen on (default 127.0.0.1)")
    serving.add_argument("--port", metavar="N", help="port to listen on; 0 takes a free one (default 8400)")
    serving.add_argument("--profile", metavar="P", help="wire settings to speak with (default openai)")
    serving.add_argument("--log-level", metavar="L", help="debug, info, warning or error (default info)")
    serving.add_argument("--workers", type=int, default=1, metavar="N", help="processes; this version serves with 1")
    serving.add_argument(
        "--reload", action="store_true", help="restart when the agent or the configuration changes (for developing)"
    )
    serving.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)
    serving.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    checking = commands.add_parser(
        "check",
        help="validate a configuration file and print the resolved routes",
        description="Validates a configuration file as `serve` would read it and prints the resolved routes.",
        allow_abbrev=False,
    )
    checking.add_argument("file", type=Path, metavar="FILE", help="the TOML file")
    return parser
