"""Imports point down: a room imports only rooms that stand above it in `ROOMS`, and not all of those."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ext4img

PACKAGE = Path(__file__).parent.parent / "ext4img"

# Each room, and what it must not import of the rooms above it.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "progress": {"errors"},
    "interruption": {"errors", "progress"},
    "worth_importing_numpy": {"errors", "progress"},
    "structs": {"progress", "worth_importing_numpy"},
    "sources": {"progress", "worth_importing_numpy"},
    # Names as they are hashed, folded and shown without a key; and fscrypt: keys and bytes in, bytes out.
    "names": {"progress", "sources"},
    "crypto": {"progress", "sources"},
    "hostfs": {"sources", "crypto"},
    # From a passphrase or key file to a master key: bytes and readers of metadata in, keys out.
    "unlocking": {"sources", "names", "hostfs"},
    "volume": {"hostfs", "unlocking"},
    # The archive is read and restored without an image at hand.
    "archive": {"sources", "volume"},
    # Plans and writes a file system from plain data; knows neither file systems that are read nor archives.
    "mkfs": {"sources", "hostfs", "unlocking", "archive"},
    "fs": {"hostfs", "archive", "mkfs"},
    "archiver": {"mkfs", "unlocking"},
    "restorer": {"sources", "volume", "mkfs", "fs", "archiver"},
    "rebuilder": {"restorer", "unlocking"},
    "comparison": {"mkfs", "restorer", "rebuilder"},
    "extractor": {"mkfs", "archiver", "rebuilder", "comparison"},
    "cli": set(),
}
READING_HALF = ("errors", "structs", "sources", "names", "volume", "fs")
HEAVY = {"numpy", "cryptography", "rich", "typer"}
LIGHT = ("crypto.policy", "crypto.keyring", "names.nokey", "names.dirhash", "names.casefold")
# Reading and restoring an archive.
ARCHIVE_HALF = ("archive.reader", "archive.open_backup", "archive.verify", "restorer.restore")

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(module: Path) -> str:
    """The first name below ext4img, or "" for the package's own face."""
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(module: Path) -> set[str]:
    """Full names of what a module imports, at whatever depth, those for type checking too."""
    return imports_in(module.read_text(encoding="utf-8"), module)


def imports_in(code: str, module: Path) -> set[str]:
    package = ["ext4img", *module.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(code, module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def allowed_for(room: str) -> set[str]:
    rooms = list(ROOMS)
    return {*rooms[: rooms.index(room)], room, "__version__"} - ROOMS[room]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_point_down(module: Path):
    room = layer_of(module)
    if not room or room == "__main__":
        pytest.skip("the package's face may import everything")
    assert room in ROOMS, f"{room} is not in the list of rooms"
    for name in imports_of(module):
        parts = name.split(".")
        if parts[0] == "ext4img":
            assert len(parts) > 1, f"{module.name} imports the package's face, which imports everything"
            assert parts[1] in allowed_for(room), f"{room} must not import {name}"
        assert parts[0] not in ("tests", "tools"), f"{module.name} imports {name}"


def test_the_list_of_rooms_is_real():
    """A name that is misspelt here would allow or forbid nothing."""
    there = {layer_of(module) for module in MODULES} - {"", "__main__"}
    assert set(ROOMS) == there
    rooms = list(ROOMS)
    for room, forbidden in ROOMS.items():
        assert forbidden <= set(rooms[: rooms.index(room)]), f"{room} is forbidden what it could not import anyway"
    for name in (*READING_HALF, *LIGHT, *ARCHIVE_HALF):
        assert importlib.util.find_spec(f"ext4img.{name}") is not None, name


def test_what_is_forbidden_would_be_noticed():
    """`archive` may not import `volume`: the check sees an import at any depth."""
    module = PACKAGE / "archive" / "made_up.py"
    code = "def f():\n    if True:\n        from ext4img.volume import volume\n"
    assert {name.split(".")[1] for name in imports_in(code, module)} - allowed_for("archive") == {"volume"}


def test_no_public_name_is_a_module():
    """`ext4img.backup` is a function, whatever has been imported: no package has its name."""
    taken = [name for name in ext4img.__all__ if importlib.util.find_spec(f"ext4img.{name}") is not None]
    assert not taken


def modules_loaded_by(statement: str) -> set[str]:
    """The modules of sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def importing(names: tuple[str, ...]) -> str:
    return "\n".join(f"import ext4img.{name}" for name in names)


@pytest.mark.parametrize("names", [READING_HALF, LIGHT], ids=["reading", "names and keys"])
def test_reading_imports_nothing_heavy(names: tuple[str, ...]):
    """Opening an image must be quick: numpy alone takes a tenth of a second."""
    assert not modules_loaded_by(importing(names)) & HEAVY


def test_public_face_imports_nothing_heavy():
    assert not modules_loaded_by("import ext4img") & HEAVY


def test_reading_an_archive_loads_nothing_of_images():
    rooms = {name.split(".")[1] for name in modules_loaded_by(importing(ARCHIVE_HALF)) if name.startswith("ext4img.")}
    assert "archive" in rooms
    assert not rooms & {"volume", "fs", "mkfs", "archiver"}


def test_modules_may_be_imported_by_any_way():
    """No trick stands between a module and its name: attributes and imports of any depth agree."""
    modules_loaded_by(
        "import ext4img.archiver.create as create, ext4img\nfrom ext4img import backup, restore\n"
        "assert ext4img.backup is backup is create.backup and ext4img.archiver.create is create\n"
        "assert type(ext4img).__name__ == 'module'"
    )
