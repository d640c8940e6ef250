"""The entry point: finds the module of the command, parses the arguments, maps exceptions to exit codes.

Only the module of the requested command is imported, so that it starts quickly.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from ext4img.cli import commands
from ext4img.cli.error_report import CommandError, error_lines, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.option_groups import for_typer, with_bare_values
from ext4img.cli.output import Output
from ext4img.cli.signals import handler, word
from ext4img.errors import Ext4Error
from ext4img.interruption import Interruption

# The base class of click's usage errors; the package that holds click depends on the version of typer.
_CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ext4img` with these arguments, by default those of the process; returns the exit code."""
    _replace_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in command_names() else ""
    handler.program = f"ext4img {command}".rstrip()
    try:
        code = _run(words, command)
        Output().flush()
        return code
    except BrokenPipeError:
        return _broken_pipe()
    except Interruption as error:
        _drop_stdout()  # writing to it may be what blocked
        _report(CommandError(Exit.INTERRUPTED, word(error.number)), command)
        return 128 + error.number
    except KeyboardInterrupt:  # where another program called this, without our handler
        _drop_stdout()
        return _report(CommandError(Exit.INTERRUPTED, "interrupted"), command)
    except (CommandError, Ext4Error, OSError) as error:
        return _report(explain(error), command)


def command_names() -> list[str]:
    """All commands: the modules of `commands/`."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def build_app(names: Sequence[str]) -> typer.Typer:
    """The Typer application with these commands."""
    app = typer.Typer(
        name="ext4img",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": 110},
    )
    app.callback()(_about)
    for name in names:
        module = import_module(f"{commands.__name__}.{name}")
        app.command(name)(for_typer(module.run))
    return app


def _run(words: list[str], command: str) -> int:
    app = build_app([command] if command else command_names())
    if command:
        words = with_bare_values(import_module(f"{commands.__name__}.{command}").run, words)
    try:
        result = typer.main.get_command(app).main(words or ["--help"], prog_name="ext4img", standalone_mode=False)
        code = result() if callable(result) else result
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _CLICK_ERROR as error:
        program = f"ext4img {command}" if command else "ext4img"
        text = str(getattr(error, "format_message", error.__str__)())
        raise CommandError(Exit.USAGE, text.strip().replace("\n", " "), f"see {program} --help") from error
    return int(code or Exit.DONE) if words else Exit.USAGE


def _version(wanted: bool) -> None:
    if wanted:
        print("ext4img", import_module("ext4img").__version__)
        raise typer.Exit


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Read ext2, ext3 and ext4 images without mounting them; back up encrypted files without their key.

    Nothing is ever written to an image. Owners are numbers and times are in UTC.
    """


def _replace_closed_streams() -> None:
    """Open substitutes for closed standard streams, or the image would get the number of one.

    The substitute for input cannot be read and that for output cannot be written, which is an
    error when it is tried; messages are dropped.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open until the process ends
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _report(error: CommandError, command: str) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    for line in error_lines(error, command):
        print(line, file=sys.stderr)
    return error.code


def _broken_pipe() -> int:
    _drop_stdout()
    return Exit.BROKEN_PIPE


def _drop_stdout() -> None:
    """Discard what Python has buffered for standard output, or flushing it would fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
