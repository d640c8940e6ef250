"""The entry point: finds the command's module, parses the line, turns exceptions into exit codes.

Only the module of the command that was asked for is imported: a command is to start at once.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer

from ext4img.cli import commands
from ext4img.cli.error_report import Failure, explain, lines
from ext4img.cli.exit_codes import Exit
from ext4img.cli.options import for_typer, with_bare_values
from ext4img.cli.output import Output
from ext4img.errors import Ext4Error

# What click raises for a command line that makes no sense; in which package click is depends on typer.
_COMPLAINT: type[Exception] = typer.BadParameter.__mro__[2]
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _Terminated(BaseException):
    """SIGTERM or SIGHUP as an exception, so that what is half done is taken away."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ext4img` with these arguments, by default the process's own; returns the exit code."""
    _replace_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in command_names() else ""
    before = [signal.signal(number, _terminate) for number in _SIGNALS]
    try:
        code = _run(words, command)
        Output().flush()
        return code
    except BrokenPipeError:
        return _broken_pipe()
    except KeyboardInterrupt:
        _drop_stdout()  # which may be what it was waiting for
        return _tell(Failure(Exit.INTERRUPTED, "interrupted"), command)
    except _Terminated as error:
        _drop_stdout()
        _tell(Failure(Exit.INTERRUPTED, "terminated"), command)
        return 128 + error.number
    except (Failure, Ext4Error, OSError) as error:
        return _tell(explain(error), command)
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def command_names() -> list[str]:
    """All commands: the modules of `commands/`."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def _run(words: list[str], command: str) -> int:
    app = typer.Typer(
        name="ext4img",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": 110},
    )
    app.callback()(_about)
    for name in [command] if command else command_names():
        module = import_module(f"{commands.__name__}.{name}")
        app.command(name)(for_typer(module.run))
        if name == command:
            words = with_bare_values(module.run, words)
    try:
        result = typer.main.get_command(app).main(words or ["--help"], prog_name="ext4img", standalone_mode=False)
        code = result() if callable(result) else result
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _COMPLAINT as error:
        program = f"ext4img {command}" if command else "ext4img"
        text = str(getattr(error, "format_message", error.__str__)())
        raise Failure(Exit.USAGE, text.strip().replace("\n", " "), f"{program} --help tells how") from error
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

    Nothing is ever written to an image. Names, owners and times are the image's; times are UTC.
    """


def _replace_closed_streams() -> None:
    """Standard streams that the caller has closed: or the image would be opened in the place of one.

    What stands in for input cannot be read, and what stands in for output not written, as is told
    when that is tried; messages go nowhere.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(number)


def _tell(failure: Failure, command: str) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    for line in lines(failure, command):
        print(line, file=sys.stderr)
    return failure.code


def _broken_pipe() -> int:
    _drop_stdout()
    return Exit.BROKEN_PIPE


def _drop_stdout() -> None:
    """What Python still holds for standard output goes nowhere, and not into an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
