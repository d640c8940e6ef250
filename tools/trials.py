"""Trials: what is random and takes long, with one seed that repeats it. `make trials`.

    python -m tools.trials [--seed NUMBER] [--count MUTATIONS] [--rounds NUMBER]

The fuzzer damages every image of tests/fixtures, first to find crashes, then to find damage under
checksums that nothing reports; Hypothesis' tests follow, each round with a seed of its own and so
with other examples. Then commands get signals at random moments, a device is backed up while it is
written to, and snapshots of file systems in use are backed up. Findings of the fuzzer are stored as
recipes in --out.

Figures of a run are kept in docs/how-it-is-checked.md, section "Long runs".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
HYPOTHESIS_TESTS = ("-m", "pytest", "-q", "-m", "hypothesis")


def trials(seed: int, count: int, rounds: int, workers: str, out: Path) -> list[tuple[str, list[str]]]:
    """What each trial is called, and its command."""
    fuzz = ["-m", "tools.fuzz", "--seed", str(seed), "--mutations", str(count), "--out", str(out)]
    found = [(f"fuzz, {mode}", [*fuzz, "--mode", mode]) for mode in ("crash", "silent")]
    for number in range(seed, seed + rounds):
        command = [*HYPOTHESIS_TESTS, "-n", workers, f"--hypothesis-seed={number}"]
        found.append((f"hypothesis, seed {number}", command))
    found.append(("signals", ["-m", "tools.signal_trials", "--seed", str(seed)]))
    found.append(("snapshots", ["-m", "tools.snapshots", "--seed", str(seed)]))
    found.append(("live sources", ["-m", "tools.live_trials", "--seed", str(seed)]))
    return found


def main() -> int:
    """See the module's text; 1 where a trial found something."""
    parser = argparse.ArgumentParser(prog="python -m tools.trials", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()), help="(the time)")
    parser.add_argument("--count", type=int, default=1000, help="mutations of each image and mode (1000)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of Hypothesis' tests (5)")
    parser.add_argument("--workers", default="auto", help="test processes (auto)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "trials", help="directory of the recipes")
    options = parser.parse_args()
    print(f"trials: SEED={options.seed} COUNT={options.count} ROUNDS={options.rounds}", flush=True)
    results = []
    for name, command in trials(options.seed, options.count, options.rounds, options.workers, options.out):
        print(f"\n== {name}", flush=True)
        begun = time.monotonic()
        status = subprocess.run([sys.executable, *command], check=False, cwd=ROOT).returncode
        results.append((name, status, time.monotonic() - begun))
    print(f"\n== trials: SEED={options.seed} COUNT={options.count} ROUNDS={options.rounds}")
    for name, status, seconds in results:
        print(f"{name:28} {'nothing found' if not status else 'FOUND SOMETHING'} in {seconds:.0f} s")
    return 1 if any(status for _, status, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
