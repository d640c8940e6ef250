"""The plugin that tells which share of ext4img's statements ran."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tools import marks, statement_coverage
from tools.marks import Marks
from tools.statement_coverage import StatementCoverage, mark_stretches

MODULE = '''"""Its docstring."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import nothing_at_all

class Kind:
    """A class."""
    size = 1

def f(x):
    """A function."""
    y = x
    if y:
        y += 1
        return y
    else:
        pass
    for _ in ():
        never()
    try:
        match y:
            case 0:
                raise ValueError
            case _:
                never()
    except ValueError:
        return "caught"

def stub(): ...
'''
STRETCHES = [[3, 4], [7, 11, 30], [9], [13, 14], [19], [21], [15, 16], [18], [20], [22], [28], [24], [26]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package of one module, imported with marks."""
    (tmp_path / "ext4img").mkdir()
    (tmp_path / "ext4img" / "it.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(marks, "_by_file", {})
    for name, value in {"ROOT": tmp_path, "PACKAGE": tmp_path / "ext4img", "REPORT": tmp_path / "b" / "r"}.items():
        monkeypatch.setattr(statement_coverage, name, value)
    tree = ast.parse(MODULE)
    assert sorted(mark_stretches(tree, "ext4img/it.py")) == sorted(STRETCHES)
    namespace: dict[str, Any] = {"__name__": "it"}
    exec(compile(tree, "it", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    ("arguments", "missing", "count"),
    [
        ([], "13-16, 18-22, 24, 26, 28", 12),
        ([1], "18-22, 24, 26, 28", 8),
        ([0], "15-16, 20, 26", 4),
        ([0, 1], "20, 26", 2),
    ],
)
def test_what_never_ran_is_listed(
    package: dict[str, Any], tmp_path: Path, arguments: list[int], missing: str, count: int
):
    for argument in arguments:
        assert package["f"](argument) == (2 if argument else "caught")
    coverage = StatementCoverage(Marks())
    share = coverage.figure()
    total = sum(map(len, STRETCHES))
    assert share == pytest.approx(100 - 100 * count / total)
    assert (tmp_path / "b" / "r").read_text(encoding="utf-8").endswith(f"% ext4img/it.py: {missing}\n")
    assert coverage.told == f"coverage: {share:.1f} % of {total} statements"


def test_marks_of_processes_are_joined():
    gathered = Marks()
    gathered.add({"a": b"\1\0\0"})
    gathered.add({"a": b"\0\0\1", "b": b"\1"})
    assert (gathered.of("a", 3), gathered.of("b", 1), gathered.of("c", 2)) == (b"\1\0\1", b"\1", b"\0\0")


@pytest.mark.parametrize(("floor", "status"), [(0.0, 0), (99.0, 1)])
def test_the_floor(package: dict[str, Any], monkeypatch: pytest.MonkeyPatch, floor: float, status: int):
    monkeypatch.setattr(statement_coverage, "FLOOR", floor)
    monkeypatch.setattr(statement_coverage, "kernel_cannot", lambda: None)
    monkeypatch.setattr(statement_coverage, "is_full_run", lambda *_: True)

    class Session:
        exitstatus = pytest.ExitCode.OK

    session: Any = Session()
    StatementCoverage(Marks()).pytest_sessionfinish(session, 0)
    assert session.exitstatus == status
