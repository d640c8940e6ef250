"""Where the fuzzer's decisions come from: a seeded generator, or the bytes that atheris hands over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Chooser(Protocol):
    """Decisions, one after another."""

    def below(self, end: int) -> int:
        """A number from 0 to `end` - 1."""
        ...

    def data(self, count: int) -> bytes:
        """`count` bytes."""
        ...


def pick(chooser: Chooser, options: Sequence[T]) -> T:
    """One of `options`."""
    return options[chooser.below(len(options))]


class RandomChooser:
    """Reproducible: the same words give the same decisions."""

    def __init__(self, *words: object) -> None:
        self._random = random.Random("/".join(map(str, words)))

    def below(self, end: int) -> int:
        return self._random.randrange(end)

    def data(self, count: int) -> bytes:
        return self._random.randbytes(count)


class AtherisChooser:
    """Decisions by an atheris.FuzzedDataProvider, so that coverage guides them."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def below(self, end: int) -> int:
        return int(self._provider.ConsumeIntInRange(0, end - 1))

    def data(self, count: int) -> bytes:
        return bytes(self._provider.ConsumeBytes(count)).ljust(count, b"\0")
