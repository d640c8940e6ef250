"""`make release`: build and check what would be published. Nothing is uploaded.

1. CHANGELOG.md has a section for the version, with a date.
2. A wheel and an sdist are built into dist/, and twine accepts their metadata.
3. The wheel is installed into a fresh virtual environment, where the command runs and each module
   can be imported.
4. The sdist holds what is needed to build and test from it.

`--allow-unreleased` accepts a changelog that has only an "Unreleased" section, to try the rest.
"""

from __future__ import annotations

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ext4img import __version__

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "plain-4k.img.xz"
SDIST_NEEDS = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "docs/cli.md", "tests/conftest.py",
               "tests/fixtures/plain-4k.img.xz", "tools/release.py", "ext4img/py.typed")  # fmt: skip
IMPORT_ALL = """
import importlib, pkgutil, ext4img
assert "site-packages" in ext4img.__file__, ext4img.__file__
for name in ext4img.__all__:
    getattr(ext4img, name)
names = [module.name for module in pkgutil.walk_packages(ext4img.__path__, "ext4img.") if "__main__" not in module.name]
for name in names:
    importlib.import_module(name)
print(len(names), "modules imported")
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command, show it, and return its standard output; a failure ends the script."""
    print("$", *command, flush=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{command[0]} ended with {done.returncode}")
    return done.stdout


def check_changelog(text: str, version: str, allow_unreleased: bool) -> None:
    """Exit unless the changelog has a dated section for the version."""
    if re.search(rf"(?m)^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", text):
        return
    if not allow_unreleased:
        sys.exit(f'CHANGELOG.md has no section "## {version} - YYYY-MM-DD"')
    if not re.search(r"(?m)^## Unreleased$", text):
        sys.exit('CHANGELOG.md has no section "## Unreleased"')


def build(dist: Path) -> tuple[Path, Path]:
    """Build into an empty `dist`; the wheel and the sdist."""
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def check_wheel(wheel: Path, scratch: Path) -> None:
    """Install the wheel into a fresh environment, and use it."""
    # A pip of its own may be missing where the distribution keeps ensurepip apart, so this one's is used.
    run(sys.executable, "-m", "venv", "--without-pip", scratch / "venv")
    python, command = scratch / "venv" / "bin" / "python", scratch / "venv" / "bin" / "ext4img"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel)
    image = scratch / "plain.img"
    with lzma.open(FIXTURE) as packed, image.open("wb") as raw:
        shutil.copyfileobj(packed, raw)
    if run(command, "--version", cwd=scratch) != f"ext4img {__version__}\n":
        sys.exit("the installed command has another version")
    print(run(command, "info", image, cwd=scratch).splitlines()[0])
    print(run(python, "-c", IMPORT_ALL, cwd=scratch), end="")


def check_sdist(sdist: Path) -> None:
    """Exit if the sdist lacks something."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in SDIST_NEEDS if name not in names]
    if missing:
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description="Build and check a release; upload nothing.")
    parser.add_argument("--allow-unreleased", action="store_true", help="accept a changelog without this version")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the wheel and sdist go")
    options = parser.parse_args()
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    check_changelog(changelog, __version__, options.allow_unreleased)
    wheel, sdist = build(options.dist)
    check_sdist(sdist)
    with tempfile.TemporaryDirectory(prefix="ext4img-release-") as scratch:
        check_wheel(wheel, Path(scratch))
    print(f"{wheel.name} and {sdist.name} are good; nothing was uploaded.")


if __name__ == "__main__":
    main()
