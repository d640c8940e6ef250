"""No module of fs/ depends on itself through others, imports for type checking included."""

from __future__ import annotations

import ast
from pathlib import Path

ROOM = Path(__file__).parent.parent.parent / "ext4img" / "fs"


def imports_of(module: Path) -> set[str]:
    """The modules of fs/ that a module imports at its top level."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(module.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If):  # TYPE_CHECKING
            todo += node.body
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ext4img.fs."):
            found.add((node.module or "").removeprefix("ext4img.fs."))
    return found


def test_there_is_no_import_circle():
    imports = {module.stem: imports_of(module) for module in ROOM.glob("*.py")}
    assert imports["filesystem"] >= {"path", "resolve", "walk"}
    assert {name for name, wanted in imports.items() if "filesystem" in wanted} == {"check"}
    while True:
        leaves = {name for name, wanted in imports.items() if not wanted & imports.keys()}
        if not leaves:
            break
        imports = {name: wanted for name, wanted in imports.items() if name not in leaves}
    assert not imports
