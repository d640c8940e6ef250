"""The driver: `python -m tools.fuzz [IMAGE …]`, by default the images of tests/fixtures.

Two questions are asked. `crash`: does anything but Ext4Error come out, within the bounds of time
and memory? `silent`: where a byte that a checksum covers is damaged, is that ever shown as
something else without an error or a problem?

Findings are written to --out as recipes (see tools/fuzz/recipe.py), to be fixed and then kept in
tests/hostile. The same --seed gives the same mutations.
"""

from __future__ import annotations

import argparse
import importlib
import lzma
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ext4img.fs.filesystem import FileSystem
from ext4img.sources import BytesSource
from ext4img.volume.problems import CHECKS, Checks
from ext4img.volume.volume import Journal
from tools.fuzz.chooser import RandomChooser
from tools.fuzz.consumers import COMMANDS, back_up, rebuild, run_command
from tools.fuzz.exercise import Keys, Seen, exercise
from tools.fuzz.isolation import MEMORY_BYTES, SECONDS, Outcome, run_all
from tools.fuzz.mutations import Image, mutate, mutate_covered, truncate_length
from tools.fuzz.recipe import Recipe
from tools.fuzz.sites import find_sites

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"


@dataclass
class Target:
    """An image under test. Where its journal is external, the device's bytes stand behind its own."""

    name: str
    image: Image
    keys: Keys
    sound: Seen | None = None
    size: int | None = None
    """Bytes of the image alone."""

    def source(self, length: int | None = None) -> BytesSource:
        """The image as it is now, cut to `length` bytes."""
        end = len(self.image.data) if self.size is None else self.size
        return BytesSource(memoryview(self.image.data)[: end if length is None else min(end, length)])

    @property
    def journal_device(self) -> BytesSource | None:
        """The device of the journal as it is now."""
        return None if self.size is None else BytesSource(memoryview(self.image.data)[self.size :])


def load_image(path: Path) -> bytearray:
    """A raw image, or one packed by xz."""
    if path.suffix == ".xz":
        with lzma.open(path) as file:
            return bytearray(file.read())
    return bytearray(path.read_bytes())


def load_keys(path: Path) -> Keys:
    """The key files beside an image: NAME.*.key, in hex."""
    stem = path.name.partition(".img")[0]
    return [(bytes.fromhex(key.read_text().strip()), None) for key in sorted(path.parent.glob(f"{stem}.*.key"))]


def load_target(path: Path) -> Target:
    """Read an image and find its structures; what is imported late is there before the first fork."""
    for module in ("numpy", "ext4img.crypto.ciphers", "ext4img.crypto.codec", "tools.fuzz.consumers"):
        importlib.import_module(module)
    data = load_image(path)
    stem, _, suffix = path.name.partition(".img")
    device = path.with_name(f"{stem}.journal.img{suffix}")
    size = None
    if device.exists():
        size = len(data)
        data += load_image(device)
    return Target(stem, Image(data, find_sites(data, size)), load_keys(path), size=size)


def crash_job(target: Target, seed: str, index: int, kinds: list[str]) -> dict[str, Any]:
    """One mutation through everything, in report mode and one of the others."""
    image = target.image
    chooser = RandomChooser(seed, target.name, index)
    told = mutate(image, chooser, kinds)
    length = truncate_length(image, chooser)
    # Keys cost more than all the rest, and what they open is decrypted in the same way every time.
    keys = target.keys if index % 4 == 0 else ()
    journal: Journal = "ignore" if index % 5 == 1 else "replay"
    modes: tuple[Checks, ...] = ("report", "off") if index % 2 else ("report", "strict")
    try:
        seen = exercise(target.source(length), keys, modes, journal, _consumer(index), target.journal_device)
        if index % 3 == 2:
            words = COMMANDS[index // 3 % len(COMMANDS)]
            path = seen.paths[index % len(seen.paths)] if seen.paths else "/"
            checks = () if words[0] == "check" else ("--checks", CHECKS[index // 3 % 3])
            run_command(target.source(length), [*words, *checks], path)
    finally:
        image.restore()
    return {"told": told, "complained": seen.complained}


def _consumer(index: int) -> Callable[[FileSystem], None] | None:
    """What is made of the image in this run: a backup, a new image, or neither (but a command is run)."""
    return (back_up, rebuild, None)[index % 3]


def silent_job(target: Target, seed: str, index: int, kinds: list[str]) -> dict[str, Any]:
    """One mutation under a checksum; silent where something else is shown without complaint."""
    assert target.sound is not None
    image = target.image
    told = mutate_covered(image, RandomChooser(seed, target.name, index, "covered"))
    only_report: tuple[Checks, ...] = ("report",)
    try:
        seen = exercise(target.source(), (), only_report, journal_device=target.journal_device)
    finally:
        image.restore()
    differs = seen.listing != target.sound.listing
    # What is said of the sound image too (that it was recovered, say) is no complaint about this.
    complained = bool({*seen.errors, *seen.problems} - {*target.sound.errors, *target.sound.problems})
    return {"told": told, "complained": complained, "differs": differs, "silent": differs and not complained}


def remake(target: Target, mode: str, seed: str, index: int, kinds: list[str]) -> Recipe:
    """The recipe of one mutation."""
    image = target.image
    length = None
    if mode == "crash":
        chooser = RandomChooser(seed, target.name, index)
        told = mutate(image, chooser, kinds)
        length = truncate_length(image, chooser)
    else:
        told = mutate_covered(image, RandomChooser(seed, target.name, index, "covered"))
    recipe = Recipe(target.name, image.patches(), length, story=told)
    image.restore()
    return recipe


def run(target: Target, options: argparse.Namespace) -> list[Outcome]:
    """All mutations of one image; prints a line, keeps the findings."""
    if options.mode == "silent":
        if not any(site.covered for site in target.image.sites):
            print(f"{target.name:22} has no checksums", flush=True)
            return []
        target.sound = exercise(target.source(), (), ("report",), journal_device=target.journal_device)
    job = crash_job if options.mode == "crash" else silent_job
    missing = set(options.kinds) - set(target.image.kinds)
    kinds = [kind for kind in options.kinds if kind not in missing]
    if options.kinds and not kinds:
        return []
    findings: list[Outcome] = []
    told: set[str] = set()
    statuses: Counter[str] = Counter()
    slowest, most_memory = (0.0, -1), 0
    begun = time.monotonic()
    indices = range(options.start, options.start + options.mutations)
    for outcome in run_all(indices, lambda index: job(target, options.seed, index, kinds)):
        result = outcome.result or {}
        status = "silent" if outcome.ok and result.get("silent") else outcome.status
        statuses[status] += 1
        statuses["complained"] += bool(result.get("complained"))
        statuses["differs"] += bool(result.get("differs"))
        slowest = max(slowest, (outcome.seconds, outcome.job))
        most_memory = max(most_memory, outcome.memory_bytes)
        if status != "ok":
            findings.append(outcome)
            recipe = remake(target, options.mode, options.seed, outcome.job, kinds)
            print(f"  {target.name} {outcome.job}: {status}: {recipe.story}", flush=True)
            lines = outcome.detail.splitlines()[-options.lines :]
            if "".join(lines) not in told:  # one fault is met by many mutations
                print("\n".join(f"    {line}" for line in lines), flush=True)
            told.add("".join(lines))
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                recipe.save(options.out / f"{target.name}-{options.mode}-{outcome.job}.json")
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items() if count)
    print(
        f"{target.name:22} {options.mutations} mutations in {time.monotonic() - begun:.0f} s: {counts};"
        f" slowest {slowest[0]:.2f} s (number {slowest[1]}), most memory {most_memory >> 20} MiB",
        flush=True,
    )
    return findings


def main() -> int:
    """See the module's text; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", type=Path, help="raw images, or .img.xz (default: tests/fixtures)")
    parser.add_argument("--mode", choices=("crash", "silent"), default="crash")
    parser.add_argument("--mutations", type=int, default=5000, help="of each image (5000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", default="ext4img")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[], help="structures to damage")
    parser.add_argument("--out", type=Path, help="directory for the recipes of what is found")
    parser.add_argument("--lines", type=int, default=8, help="of each traceback")
    parser.add_argument("--list-kinds", action="store_true")
    options = parser.parse_args()
    print(f"bounds of a run: {SECONDS:.0f} s, {MEMORY_BYTES >> 20} MiB", flush=True)
    found = 0
    for path in options.images or sorted(FIXTURES.glob("*.img.xz")):
        target = load_target(path)
        if options.list_kinds:
            print(target.name, ", ".join(f"{kind} ({len(target.image.by_kind[kind])})" for kind in target.image.kinds))
            continue
        found += len(run(target, options))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
