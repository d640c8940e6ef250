"""Marks that modules set while tests run, gathered from all processes of pytest-xdist.

A plugin changes the syntax tree of a module so that it sets a mark wherever it wants to know what
ran (`set_mark`), and gives the module its marks (`give_marks`). A mark costs some ten nanoseconds;
a tracer doubles the time of Python code, and Python 3.11 has nothing else to offer.
"""

from __future__ import annotations

import ast
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
_NAME = "_marks"
_OUTPUT = "marks"
_PARTIAL_OPTIONS = ("keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob", "collectonly")

_by_file: dict[str, mmap.mmap] = {}


def of_file(file: str, count: int) -> mmap.mmap:
    """One byte for each mark of a file; children forked by a test write into the same."""
    return _by_file.setdefault(file, mmap.mmap(-1, max(count, 1)))


def set_mark(number: int, at: ast.stmt) -> ast.stmt:
    """A statement that sets a mark of its module."""
    target = ast.Subscript(ast.Name(_NAME, ast.Load()), ast.Constant(number), ast.Store())
    return ast.fix_missing_locations(ast.copy_location(ast.Assign([target], ast.Constant(1)), at))


def setting_mark(number: int, value: ast.expr) -> ast.expr:
    """An expression with the value of another that sets a mark of its module first."""
    call = ast.parse(f"{_NAME}.__setitem__({number}, 1)", mode="eval").body
    pair = ast.Tuple([call, value], ast.Load())
    return ast.copy_location(ast.Subscript(pair, ast.Constant(1), ast.Load()), value)


def give_marks(tree: ast.Module, file: str, count: int) -> None:
    """Let a module get its marks before all else, but for the docstring and imports from `__future__`."""
    place = 1 if ast.get_docstring(tree, clean=False) is not None else 0
    while place < len(tree.body) and getattr(tree.body[place], "module", None) == "__future__":
        place += 1
    code = f"import tools.marks as _tools_marks\n{_NAME} = _tools_marks.of_file({file!r}, {count})"
    tree.body[place:place] = ast.parse(code).body
    ast.fix_missing_locations(tree)


class Marks:
    """The marks of this process and of those that pytest-xdist runs tests in."""

    def __init__(self) -> None:
        self._gathered: dict[str, bytes] = {}

    def of(self, file: str, count: int) -> bytes:
        """One byte for each mark of a file, 1 where it was set; zeros where the file was not imported."""
        self.add({file: _by_file[file][:]} if file in _by_file else {})
        return self._gathered.get(file, b"")[:count].ljust(count, b"\0")

    def add(self, marks: Mapping[str, bytes]) -> None:
        """Join marks to those that are known."""
        for file, more in marks.items():
            known = self._gathered.get(file, bytes(len(more)))
            self._gathered[file] = bytes(a | b for a, b in zip(known, more, strict=True))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the marks of a process that has ended."""
        self.add(getattr(node, "workeroutput", {}).get(_OUTPUT, {}))


class _Sender:
    """In a process of pytest-xdist: sends its marks to the parent."""

    def pytest_sessionfinish(self, session: Any) -> None:
        session.config.workeroutput[_OUTPUT] = {file: marks[:] for file, marks in _by_file.items()}


def gather(config: pytest.Config) -> Marks | None:
    """The marks of all processes, one object for all plugins; None in a process that sends its marks elsewhere."""
    is_worker = hasattr(config, "workerinput")
    plugin = config.pluginmanager.get_plugin(_OUTPUT)
    if plugin is None:
        plugin = _Sender() if is_worker else Marks()
        config.pluginmanager.register(plugin, _OUTPUT)
    return plugin if isinstance(plugin, Marks) else None


def is_full_run(session: pytest.Session, exitstatus: int) -> bool:
    """Whether the whole suite ran, and passed."""
    options = session.config.option
    partial = options.file_or_dir or any(getattr(options, name, None) for name in _PARTIAL_OPTIONS)
    return exitstatus == pytest.ExitCode.OK and not partial
