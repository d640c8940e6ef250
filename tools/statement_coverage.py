"""Pytest plugin: the share of ext4img's statements that a full run executes, with a floor.

    python -m pytest -p tools.statement_coverage

Statements of ext4img/ count, but not docstrings, `...` and what only type checkers see. The first
of each block and of what follows a compound statement sets a mark before it runs (see
tools/marks.py); the statements up to the next mark count with it. Commands that a test starts as
programs of their own do not count, children that it forks do.

At the end of a full run one line tells the share of statements that ran. Below FLOOR the run fails,
unless this machine can't run the kernel's tests. `build/never-ran.txt` then lists each module's
share, the least covered first, with the lines that never ran.
"""

from __future__ import annotations

import ast
import importlib.abc
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tools.loop_mount import kernel_cannot
from tools.marks import ROOT, Marks, gather, give_marks, is_full_run, set_mark

PACKAGE = ROOT / "ext4img"
REPORT = ROOT / "build" / "never-ran.txt"
FLOOR = 92.0
"""Per cent; clearly below what the suite reaches, so that no change fails by chance."""
_COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.TryStar, ast.Match)


def mark_stretches(tree: ast.Module, file: str) -> list[list[int]]:
    """Change a module so that each stretch sets a mark; the lines of their statements, in the order of the marks.

    A stretch is what runs from its first statement on unless there is an exception.
    """
    stretches: list[list[int]] = []
    for block in _blocks(tree):
        marked: list[ast.stmt] = []
        begins = True
        for statement in block:
            if not _is_no_code(statement):
                if begins:
                    marked.append(set_mark(len(stretches), statement))
                    stretches.append([])
                stretches[-1].append(statement.lineno)
                begins = isinstance(statement, _COMPOUND)
            marked.append(statement)
        block[:] = marked
    give_marks(tree, file, len(stretches))
    return stretches


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and not (field == "body" and _is_for_type_checkers(node)):
                yield block


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_no_code(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or getattr(statement, "module", None) == "__future__"


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        mark_stretches(tree, str(Path(self.path).relative_to(ROOT)))
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not spec.origin or not Path(spec.origin).is_relative_to(PACKAGE):
            return None
        spec.loader = _Loader(fullname, spec.origin)
        return spec


class StatementCoverage:
    """Tells the figure at the end."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.told = ""

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Compute the figure; fail a run that stays below the floor."""
        if not is_full_run(session, exitstatus):
            return
        covered = self.figure()
        if covered < FLOOR and kernel_cannot() is None:
            self.told += f", below the floor of {FLOOR} %"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def figure(self) -> float:
        """Per cent of statements that ran; writes the report, too."""
        modules: list[tuple[float, str, list[int]]] = []
        total = ran = 0
        for path in sorted(PACKAGE.rglob("*.py")):
            file = str(path.relative_to(ROOT))
            stretches = mark_stretches(ast.parse(path.read_bytes()), file)
            marks = self._marks.of(file, len(stretches))
            missing = [line for lines, mark in zip(stretches, marks, strict=True) if not mark for line in lines]
            count = sum(map(len, stretches))
            total, ran = total + count, ran + count - len(missing)
            modules.append((100 - 100 * len(missing) / max(count, 1), file, sorted(set(missing))))
        REPORT.parent.mkdir(exist_ok=True)
        told = (f"{share:5.1f} % {file}: {_ranges(missing)}\n" for share, file, missing in sorted(modules) if missing)
        REPORT.write_text("".join(told), encoding="utf-8")
        self.told = f"coverage: {100 * ran / total:.1f} % of {total} statements"
        return 100 * ran / total

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell the figure."""
        if self.told:
            terminalreporter.line(f"{self.told}; the rest is in {REPORT.relative_to(ROOT)}")


def _ranges(lines: list[int]) -> str:
    """`3-5, 9`."""
    starts = [line for before, line in pairwise([-1, *lines]) if line != before + 1]
    ends = [line for line, after in pairwise([*lines, -1]) if after != line + 1]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Mark what is imported from here on: nothing of ext4img is imported before conftest.py."""
    sys.meta_path.insert(0, _Finder())


def pytest_configure(config: pytest.Config) -> None:
    """Judge the marks in the process that gathers them."""
    marks = gather(config)
    if marks is not None:
        config.pluginmanager.register(StatementCoverage(marks))
