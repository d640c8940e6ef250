"""Imports point down: errors, structs → sources, crypto → volume → view → backup → cli; build beside view."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ext4img"

# What each package may import of the others; crypto sees bytes and keys only, backup never goes past the view.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "structs": {"errors"},
    "sources": {"errors", "structs"},
    "crypto": {"errors", "structs"},
    "volume": {"errors", "structs", "sources", "crypto"},
    "view": {"errors", "structs", "sources", "crypto", "volume"},
    # Plans and writes a file system from plain data; knows neither views nor archives.
    "build": {"errors", "structs", "crypto", "volume"},
    "backup": {"errors", "structs", "sources", "crypto", "volume", "view", "build"},
    "cli": {"errors", "structs", "sources", "crypto", "volume", "view", "build", "backup"},
}
# Beyond its package's rule: reading back an archive and restoring it need no image.
NEVER_SEE_AN_IMAGE = {"reader", "restorer", "destinations", "entry", "records"}
READING_HALF = ("errors", "structs", "sources", "volume", "view")
HEAVY = ("numpy", "cryptography", "rich", "typer")
LIGHT_CRYPTO = ("policy", "names", "dirhash", "keyring")

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: Path) -> str:
    """The first name below ext4img, or "" for the package's own face."""
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(module: Path) -> set[str]:
    """Full names of what a module imports, at whatever depth, those for type checking too."""
    package = ["ext4img", *module.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"), module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_point_down(module: Path):
    layer = layer_of(module)
    if not layer or layer == "__main__":
        pytest.skip("the package's face may see everything")
    assert layer in MAY_IMPORT, f"{layer} has no place in the layering"
    allowed = MAY_IMPORT[layer] | {layer, "__version__"}
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] == "ext4img":
            assert len(parts) > 1, f"{module.name} imports the package's face, which imports everything"
            assert parts[1] in allowed, f"{layer} must not import {name}"
        assert parts[0] not in ("tests", "tools"), f"{module.name} imports {name}"


def test_the_archive_reader_never_sees_an_image():
    for module in MODULES:
        if layer_of(module) == "backup" and module.stem in NEVER_SEE_AN_IMAGE:
            seen = {name for name in imports_of(module) if name.startswith(("ext4img.volume", "ext4img.view"))}
            assert not seen, f"backup/{module.name} imports {seen}"


def modules_loaded_by(statement: str) -> set[str]:
    """Top-level names of sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def test_reading_imports_nothing_heavy():
    """Opening an image must be quick: numpy alone takes a tenth of a second."""
    statement = "\n".join(f"import ext4img.{name}" for name in READING_HALF)
    assert not modules_loaded_by(statement) & set(HEAVY)


def test_light_crypto_imports_nothing_heavy():
    there = [name for name in LIGHT_CRYPTO if (PACKAGE / "crypto" / f"{name}.py").exists()]
    statement = "\n".join(f"import ext4img.crypto.{name}" for name in there)
    assert not modules_loaded_by(statement) & set(HEAVY)


def test_public_face_imports_nothing_heavy():
    assert not modules_loaded_by("import ext4img") & set(HEAVY)
