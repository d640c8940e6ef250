"""Numbers for people: times, sizes, and a count with its noun."""

from __future__ import annotations

from datetime import UTC, datetime

_BILLION = 1_000_000_000


def time_text(time_ns: int, full: bool = False) -> str:
    """A time in UTC, to the minute; `full` to the nanosecond, in the format of GNU stat."""
    seconds, rest = divmod(time_ns, _BILLION)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # archives can claim any time
        return f"@{seconds}.{rest:09d}" if full else f"@{seconds}"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d} +0000" if full else f"{moment:%Y-%m-%d %H:%M}"


def size_text(size: int) -> str:
    """A size as ls -h prints it: at most three digits, rounded up, and a unit of 1,024."""
    if size < 1024:
        return str(size)
    unit = 0
    whole = size
    divisor = 1
    while whole >= 1024 and unit < len("KMGTPEZY"):
        unit += 1
        divisor <<= 10
        whole = -(-size // divisor)
    tenths = -(-size * 10 // divisor)
    if tenths < 100:
        return f"{tenths // 10}.{tenths % 10}{'KMGTPEZY'[unit - 1]}"
    return f"{whole}{'KMGTPEZY'[unit - 1]}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 block, 2 blocks."""
    return f"{count} {one if count == 1 else many or one + 's'}"
