"""The plugin that fails a full run where checks never ran."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import assert_coverage, marks
from tools.assert_coverage import AssertCoverage, Check, put_marks
from tools.marks import Marks

MODULE = '''"""Its docstring."""
from __future__ import annotations
import pytest

def test_loop(items):
    for item in items:
        assert item == 1
    assert all(item == 1 for item in items)
    assert_sound(items)
    assert False, "never meant to run"

def assert_sound(items):
    with pytest.raises(ZeroDivisionError):
        1 / 0
        assert items

class TestMore:
    def test_inner(self):
        def inner():
            assert True is True
        inner()
'''
CHECKS = [
    Check(7, "assert", "test_loop"),
    Check(8, "all(…) of nothing", "test_loop"),
    Check(8, "assert", "test_loop"),
    Check(9, "assert_sound", "test_loop"),
    Check(15, "assert", "assert_sound"),
    Check(13, "raises", "assert_sound"),
    Check(20, "assert", "TestMore.test_inner"),
]


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(marks, "_by_file", {})
    tree = ast.parse(MODULE)
    assert put_marks(tree, "made up") == CHECKS
    namespace: dict[str, Any] = {}
    exec(compile(tree, "made up", "exec"), namespace)
    return namespace


def passed() -> list[Check]:
    found = Marks().of("made up", len(CHECKS))
    return [check for check, mark in zip(CHECKS, found, strict=True) if mark]


@pytest.mark.parametrize(("items", "lines"), [([], [8, 9, 13]), ([1], [7, 8, 8, 9, 13])])
def test_what_ran_is_marked(marked: dict[str, Any], items: list[int], lines: list[int]):
    with pytest.raises(AssertionError, match="never meant to run"):
        marked["test_loop"](items)
    assert [check.line for check in passed()] == lines


def test_a_check_that_failed_is_not_marked(marked: dict[str, Any]):
    with pytest.raises(AssertionError):
        marked["test_loop"]([2])
    assert not passed()


def test_docstring_and_future_stay_first(marked: dict[str, Any]):
    assert marked["__doc__"] == "Its docstring."
    assert marked["test_loop"].__code__.co_firstlineno == 5


def report(nodeid: str, when: Any, outcome: Any) -> pytest.TestReport:
    return pytest.TestReport(nodeid, ("", None, ""), {}, outcome, None, when)


def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reports: list[pytest.TestReport]) -> AssertCoverage:
    """The verdict on a suite of one module, of which nothing ran."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(assert_coverage, "ROOT", tmp_path)
    monkeypatch.setattr(assert_coverage, "TESTS", tmp_path / "tests")
    coverage = AssertCoverage(Marks())
    for one in reports:
        coverage.pytest_runtest_logreport(one)
    coverage.judge()
    return coverage


def test_what_never_ran_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    coverage = judged(monkeypatch, tmp_path, [])
    assert len(coverage.lines) == len(CHECKS)
    assert "tests/test_it.py:7: assert in test_loop" in coverage.lines


def test_skipped_tests_excuse_what_they_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    skipped = [report(f"tests/test_it.py::test_loop[{n}]", "setup", "skipped") for n in range(2)]
    coverage = judged(monkeypatch, tmp_path, skipped)
    assert coverage.lines == ["tests/test_it.py:20: assert in TestMore.test_inner"]


def test_a_case_that_ran_takes_the_excuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    skipped = report("tests/test_it.py::test_loop[0]", "setup", "skipped")
    ran = report("tests/test_it.py::test_loop[1]", "call", "passed")
    assert len(judged(monkeypatch, tmp_path, [skipped, ran]).lines) == len(CHECKS)


SUITE = """
import pytest

def test_nothing():
    for item in []:
        assert item

@pytest.mark.skip(reason="not here")
def test_skipped():
    assert True is True
"""


@pytest.mark.parametrize(
    ("arguments", "kernel", "status"),
    [((), None, 1), (("-n", "1"), None, 1), ((), "not root", 0), (("-k", "nothing"), None, 0), (("tests",), None, 0)],
    ids=["alone", "xdist", "not root", "-k", "path"],
)
def test_full_runs_are_judged(tmp_path: Path, arguments: tuple[str, ...], kernel: str | None, status: int):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "tools").mkdir()
    for module in (assert_coverage, marks):
        shutil.copy(str(module.__file__), tmp_path / "tools")
    (tmp_path / "tools" / "loop_mount.py").write_text(f"def kernel_cannot(): return {kernel!r}\n", encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tools.assert_coverage", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    is_full = arguments in ((), ("-n", "1"))
    assert ("tests/test_it.py:6: assert in test_nothing" in done.stdout) == is_full
    assert ("2 checks, 1 never ran, 1 of skipped tests" in done.stdout) == is_full
