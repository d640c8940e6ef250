"""Facts one under the other: a label and a value a line, as stat and dumpe2fs show them."""

from __future__ import annotations

from ext4img.cli.output import Output

Facts = list[tuple[str, str]]


def write_facts(out: Output, facts: Facts) -> None:
    """Write the facts, labels aligned; a value's further lines stand under its first."""
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        first, *more = value.split("\n")
        out.line(f"{label + ':':<{width + 2}}{first}")
        for line in more:
            out.line(" " * (width + 2) + line)
