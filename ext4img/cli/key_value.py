"""Labelled values, one a line, as stat and dumpe2fs print them."""

from __future__ import annotations

from ext4img.cli.output import Output

KeyValues = list[tuple[str, str]]


def write_key_values(out: Output, pairs: KeyValues) -> None:
    """Write the pairs with aligned labels; further lines of a value are indented below its first."""
    width = max(len(label) for label, _ in pairs)
    for label, value in pairs:
        first, *more = value.split("\n")
        out.line(f"{label + ':':<{width + 2}}{first}")
        for line in more:
            out.line(" " * (width + 2) + line)
