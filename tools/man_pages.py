"""`python -m tools.man_pages DIRECTORY`: manual pages of `ext4img` and of each of its commands.

They are made from the commands themselves, so they agree with `--help`. The exit codes come from
docs/cli.md. SOURCE_DATE_EPOCH sets the date, for builds that have to be reproducible.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import typer

from ext4img import __version__
from ext4img.cli.main import build_app, command_names

EXIT_CODES = re.compile(r"(?ms)^## Exit codes\n(.*?)^## ")
LINE_WIDTH = 68
OUTPUT_TEXT = (
    "Nothing is ever written to an image. Results go to standard output; errors, warnings and progress go to"
    " standard error."
)


def roff(text: str) -> str:
    """Words as troff takes them: no character of them is a request, an escape or a typographic hyphen."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def roff_text(text: str) -> str:
    """A paragraph in lines of a length that mandoc does not object to."""
    lines = textwrap.wrap(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(roff, lines))


def heading(name: str) -> str:
    """The first line of a page."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    return f'.TH {roff(name.upper())} 1 "{date}" "ext4img {__version__}" "User Commands"'


def paragraphs(docstring: str) -> list[str]:
    """The paragraphs of a docstring, each in one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(docstring).split("\n\n")]


def option_lines(parameter: Any) -> list[str]:
    """The entry of an option or argument."""
    default = parameter.default
    text = " ".join((parameter.help or "").split())
    if default not in (None, False, "", 0, ()) and not callable(default) and parameter.param_type_name == "option":
        text += f" Default: {getattr(default, 'value', default)}."
    if parameter.param_type_name == "argument":
        return [".TP", f".I {roff(parameter.metavar or parameter.name.upper())}", roff_text(text)]
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in (*parameter.opts, *parameter.secondary_opts))
    choices = getattr(parameter.type, "choices", None)
    value = parameter.metavar or ("|".join(str(getattr(c, "value", c)) for c in choices) if choices else "")
    return [".TP", f"{names} \\fI{roff(value)}\\fR" if value and not parameter.is_flag else names, roff_text(text)]


def command_page(name: str, command: Any) -> str:
    """The page of one command."""
    summary, *description = paragraphs(command.callback.__doc__ or "")
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    operands = " ".join(roff(argument.metavar or argument.name.upper()) for argument in arguments)
    lines = [
        heading(f"ext4img-{name}"),
        ".SH NAME",
        f"ext4img\\-{name} \\- {roff(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B ext4img {name}\n[\\fIOPTIONS\\fR] \\fI{operands}\\fR",
        ".SH DESCRIPTION",
        roff_text(summary),
    ]
    for paragraph in description:
        lines += [".PP", roff_text(paragraph)]
    lines.append(".SH ARGUMENTS")
    for argument in arguments:
        lines += option_lines(argument)
    lines.append(".SH OPTIONS")
    for option in options:
        lines += option_lines(option)
    lines += [".SH EXIT STATUS", "See\n.BR ext4img (1).", ".SH SEE ALSO", ".BR ext4img (1)"]
    return "\n".join(lines) + "\n"


def overview_page(commands: dict[str, Any], about: str, exit_codes: list[tuple[str, str]]) -> str:
    """The page of `ext4img` itself."""
    first, *_ = paragraphs(about)
    lines = [
        heading("ext4img"),
        ".SH NAME",
        "ext4img \\- read ext4 images, and back up encrypted files without key",
        ".SH SYNOPSIS",
        ".B ext4img\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR] \\fIIMAGE\\fR|\\fIARCHIVE\\fR ...",
        ".SH DESCRIPTION",
        roff_text(first),
        ".PP",
        roff_text(OUTPUT_TEXT),
        ".SH COMMANDS",
    ]
    for name, command in commands.items():
        lines += [".TP", f".BR ext4img\\-{name} (1)", roff_text(paragraphs(command.callback.__doc__ or "")[0])]
    lines += [".SH OPTIONS", ".TP", ".B \\-\\-version", "Show the version and exit.", ".TP", ".B \\-\\-help"]
    lines += ["Show the options of the command and exit.", ".TP", ".B \\-\\-install\\-completion"]
    lines += ["Install completion for the current shell.", ".SH EXIT STATUS"]
    for code, meaning in exit_codes:
        lines += [".TP", f".B {code}", roff_text(meaning)]
    return "\n".join(lines) + "\n"


def documented_exit_codes(cli_md: str) -> list[tuple[str, str]]:
    """(code, meaning) from the table in docs/cli.md, without its Markdown."""
    match = EXIT_CODES.search(cli_md)
    if match is None:
        raise SystemExit("docs/cli.md has no exit codes")
    return [(code, text.replace("`", "")) for code, text in re.findall(r"(?m)^\| (\d+) \| (.*) \|$", match[1])]


def write_pages(directory: Path) -> list[Path]:
    """Write all pages; their paths."""
    group = typer.main.get_command(build_app(command_names()))
    commands: dict[str, Any] = vars(group)["commands"]
    cli_md = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    pages = {"ext4img": overview_page(commands, group.help or "", documented_exit_codes(cli_md))}
    pages |= {f"ext4img-{name}": command_page(name, command) for name, command in commands.items()}
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, page in pages.items():
        path = directory / f"{name}.1"
        path.write_text(page, encoding="utf-8")
        written.append(path)
    return written


def main() -> None:
    """Write the pages into the directory that the command line names."""
    pages = write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "build/man"))
    print(f"{len(pages)} manual pages in {pages[0].parent}")


if __name__ == "__main__":
    main()
