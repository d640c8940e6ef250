"""The order of members, which rules out duplicates and members outside a directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive.tree_order import DEPTH_LIMIT, TreeOrder
from ext4img.errors import UnsafeArchiveError

names = st.sampled_from([b"a", b"a-", b"a.b", b"aa", b"b", b"\xff"])
trees = st.recursive(st.none(), lambda below: st.dictionaries(names, below, max_size=4), max_leaves=30)


def listed(tree: dict, prefix: bytes = b"") -> list[tuple[bytes, bool]]:
    found = []
    for name in sorted(tree):
        below = tree[name]
        found.append((prefix + name, below is not None))
        if below is not None:
            found += listed(below, prefix + name + b"/")
    return found


def check(members: list[tuple[bytes, bool]]) -> None:
    order = TreeOrder()
    order.check(b".", True)
    for path, is_directory in members:
        depth = order.check(path, is_directory)
        assert depth == path.count(b"/") + 1


@given(st.dictionaries(names, trees, max_size=5))
def test_a_walk_is_in_order(tree: dict):
    check(listed(tree))


@given(st.dictionaries(names, trees, min_size=1, max_size=5), st.data())
def test_any_other_order_is_refused(tree: dict, data: st.DataObject):
    members = listed(tree)
    index = data.draw(st.integers(0, len(members) - 1))
    twice = [*members[: index + 1], members[index], *members[index + 1 :]]
    with pytest.raises(UnsafeArchiveError):
        check(twice)
    swapped = data.draw(st.permutations(members))
    if swapped != members:
        with pytest.raises(UnsafeArchiveError):
            check(swapped)


@pytest.mark.parametrize(
    "members",
    [
        [(b"a/b", False)],
        [(b"a", False), (b"a/b", False)],
        [(b"a", True), (b"a/b/c", False)],
        [(b"b", True), (b"c", True), (b"b/a", False)],
        [(b"b", False), (b"a", False)],
        [(b"a", True), (b".", True)],
        [(b"a", True), (b"a", False)],
    ],
)
def test_refused(members: list[tuple[bytes, bool]]):
    with pytest.raises(UnsafeArchiveError):
        check(members)


def test_the_root_comes_first_and_is_a_directory():
    for path, is_directory in ((b"a", True), (b".", False)):
        with pytest.raises(UnsafeArchiveError):
            TreeOrder().check(path, is_directory)


def test_depth_is_bounded():
    order = TreeOrder()
    order.check(b".", True)
    with pytest.raises(UnsafeArchiveError, match="deep"):
        order.check(b"/".join([b"d"] * (DEPTH_LIMIT + 2)), True)
