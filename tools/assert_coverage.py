"""Pytest plugin: a full run fails when a check of the suite never ran.

    python -m pytest -p tools.assert_coverage

A test whose loop has nothing to go through passes without having checked anything. So the plugin
puts a mark behind each check of tests/ before pytest rewrites the module, and at the end of a full
run lists those whose mark was never reached:

- `assert` statements, statements `assert_…(…)`, and `with pytest.raises(…)`;
- the condition of `all(… for …)` inside an assert, which is true when there is nothing to go through.

A check counts once it has passed, in whatever process of pytest-xdist or child forked by a test.
Code that a test runs as another program does not count, neither does `assert False` (meant never to run).

A check is excused if a test that reaches it was skipped in every case: the check stands in that
test, or in a function or fixture that the test names, directly or through others. So are checks of
files that are skipped as a whole. Parts of the suite (paths, -k, -m, --lf, --deselect) and runs with
failures are not judged. Where this machine can't run the kernel's tests, because the user is not
root, say, the list is printed but fails nothing.

Two names that pytest does not document are replaced, `rewrite_asserts` and `PYC_TAIL` of
`_pytest.assertion.rewrite`: no documented hook sees a test module between its text and its import.
"""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _pytest.assertion import rewrite

from tools import marks
from tools.loop_mount import kernel_cannot
from tools.marks import ROOT, Marks, gather, give_marks, is_full_run, set_mark, setting_mark

TESTS = ROOT / "tests"
_OWN_TEXT = Path(__file__).read_bytes() + Path(marks.__file__).read_bytes()


class Check(NamedTuple):
    """A check in a test module."""

    line: int
    what: str
    function: str  # outermost function around it, "Class.method" for methods; "" for the module


class _Marker(ast.NodeTransformer):
    """Puts marks into a module, and collects what they stand for."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._scope: list[str] = []
        self._in_function = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._visit_scope(node, is_function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_scope(node, is_function=True)

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef, *, is_function: bool) -> ast.AST:
        if self._in_function:
            return self.generic_visit(node)
        self._scope.append(node.name)
        self._in_function = is_function
        self.generic_visit(node)
        self._in_function = False
        self._scope.pop()
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST | list[ast.AST]:
        if isinstance(node.test, ast.Constant):
            return node
        for inner in ast.walk(node.test):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "all":
                self._mark_elements(inner)
        return [node, self._mark(node, "assert")]

    def _mark_elements(self, call: ast.Call) -> None:
        """`all(x for y in z)` becomes `all((mark, x)[1] for y in z)`."""
        for argument in call.args:
            if isinstance(argument, ast.GeneratorExp | ast.ListComp | ast.SetComp):
                argument.elt = setting_mark(self._add(call, "all(…) of nothing"), argument.elt)

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.AST]:
        self.generic_visit(node)
        called = [item.context_expr.func for item in node.items if isinstance(item.context_expr, ast.Call)]
        if any(isinstance(func, ast.Attribute) and func.attr == "raises" for func in called):
            return [node, self._mark(node, "raises")]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.AST]:
        if isinstance(node.value, ast.Call):
            func = node.value.func
            name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
            if name.startswith("assert_"):
                return [node, self._mark(node, name)]
        return node

    def _mark(self, node: ast.stmt, what: str) -> ast.stmt:
        return set_mark(self._add(node, what), node)

    def _add(self, node: ast.stmt | ast.expr, what: str) -> int:
        self.checks.append(Check(node.lineno, what, ".".join(self._scope)))
        return len(self.checks) - 1


def put_marks(tree: ast.Module, file: str) -> list[Check]:
    """Change a module so that it marks the checks that passed; they are returned in the order of the marks."""
    marker = _Marker()
    marker.visit(tree)
    give_marks(tree, file, len(marker.checks))
    return marker.checks


def _rewrite_marked(mod: ast.Module, source: bytes, module_path: str | None = None, config: Any = None) -> None:
    if module_path and Path(module_path).is_relative_to(TESTS):
        put_marks(mod, str(Path(module_path).relative_to(ROOT)))
    _rewrite_asserts(mod, source, module_path, config)


_rewrite_asserts = rewrite.rewrite_asserts


class _Functions:
    """The functions and classes of the suite, and which of them name which."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        self._named_by: dict[str, set[str]] = {}
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    self._named_by.setdefault(node.name, set()).update(_names_in(node))

    def reached_from(self, names: Iterable[str]) -> set[str]:
        """Names of all functions that those of `names` name, directly or through others."""
        reached: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self._named_by.get(name, ())
        return reached


def _names_in(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr
        elif isinstance(inner, ast.arg):  # fixtures
            yield inner.arg


class AssertCoverage:
    """What ran, gathered from all processes, and the judgement at the end."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.ran: set[tuple[str, str]] = set()
        self.skipped: set[tuple[str, str]] = set()
        self.skipped_files: set[str] = set()
        self.lines: list[str] = []
        self.verdict = ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember the files that were skipped as a whole."""
        if report.skipped:
            self.skipped_files.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the test functions that were skipped, and those that ran at least once."""
        file, _, name = report.nodeid.partition("::")
        test = file, name.partition("[")[0].replace("::", ".")
        if report.skipped:
            self.skipped.add(test)
        elif report.when == "call":
            self.ran.add(test)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a full run where checks never ran."""
        if is_full_run(session, exitstatus):
            self.judge()
            if self.lines and kernel_cannot() is None:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def judge(self) -> None:
        """Compare the marks with the checks that the files have."""
        trees = {
            str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
            for path in sorted(TESTS.rglob("*.py"))
        }
        never_ran = self.skipped - self.ran
        excused = _Functions(trees.values()).reached_from(name.rpartition(".")[2] for _, name in never_ran)
        total = missing = pardoned = 0
        for file, tree in trees.items():
            checks = put_marks(tree, file)
            total += len(checks)
            for check, passed in zip(checks, self._marks.of(file, len(checks)), strict=True):
                if passed:
                    continue
                function = check.function.rpartition(".")[2]
                in_skipped = (file, check.function) in never_ran or file in self.skipped_files
                if in_skipped or (not function.startswith("test_") and function in excused):
                    pardoned += 1
                else:
                    missing += 1
                    self.lines.append(f"{file}:{check.line}: {check.what} in {check.function or 'the module'}")
        self.verdict = f"{total} checks, {missing} never ran, {pardoned} of skipped tests"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what was found."""
        if self.lines:
            terminalreporter.section("checks that never ran")
            for line in self.lines:
                terminalreporter.line(line)
        if self.verdict:
            terminalreporter.line(f"assert coverage: {self.verdict}")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Mark what is imported from here on: conftest.py is the first of the suite."""
    rewrite.rewrite_asserts = _rewrite_marked
    # Marked modules are cached apart from others, and anew when the marks change.
    rewrite.PYC_TAIL = f".marked-{zlib.crc32(_OWN_TEXT):08x}{rewrite.PYC_TAIL}"
    pytest.register_assert_rewrite("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Judge the marks in the process that gathers them."""
    gathered = gather(config)
    if gathered is not None:
        config.pluginmanager.register(AssertCoverage(gathered))
