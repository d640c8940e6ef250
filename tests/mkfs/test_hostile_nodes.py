"""Nodes of any values at all: planned, or refused by an error of ours."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext4img.errors import Ext4Error
from ext4img.mkfs import ENCRYPTION_CONTEXT, Node, Options, plan, write
from tests.mkfs.judges import assert_clean
from tests.mkfs.samples import ROOT, Repeated, context

SMALL = st.integers(0, 300)
ANY = st.one_of(  # mostly what can be, or nothing would be left
    *([SMALL] * 12),
    st.sampled_from([1 << n for n in (12, 16, 31, 32, 44, 48, 63, 64, 70)]),
    st.integers(),
)
NAMES = st.sampled_from([b"a", b"b", b"lost+found", b"", b".", b"x" * 255, b"y" * 256, b"a/b", b"long enough a name"])
SEGMENTS = st.lists(st.tuples(ANY, ANY), max_size=4)
FLAGS = st.one_of(st.sampled_from([0, 0, 0x800, 0x40000000, 0x40000800, 0x00100000, 0x10, 0x1000, 0xFFFFFFFF]), ANY)
CONTEXTS = st.sampled_from([context(), context(flags=0x0A), context(flags=0x12), b"", b"\x01" * 28, b"\x09" * 40])
XATTRS = st.one_of(
    st.just({}),
    st.builds(lambda raw: {ENCRYPTION_CONTEXT: raw}, CONTEXTS),
    st.dictionaries(st.tuples(st.integers(-1, 12), st.binary(max_size=260)), st.binary(max_size=6000), max_size=6),
)
MODES = st.one_of(st.sampled_from([0o100644, 0o040755, 0o120777, 0o020600, 0o010600, 0o140777, 0o644, 0]), ANY)


@st.composite
def nodes(draw: st.DrawFn) -> list[Node]:
    found = [ROOT]
    for _ in range(draw(st.integers(1, 8))):
        above = draw(st.sampled_from([node.path for node in found]))
        found.append(
            Node(
                (*above, draw(NAMES)),
                draw(MODES),
                draw(ANY),
                draw(ANY),
                draw(ANY),
                draw(ANY),
                draw(ANY),
                draw(ANY),
                draw(st.one_of(st.none(), ANY)),
                draw(FLAGS),
                draw(ANY),
                draw(st.one_of(st.just(0), ANY)),
                draw(st.one_of(st.none(), ANY)),
                draw(st.one_of(st.none(), st.integers(0, 2))),
                draw(XATTRS),
                draw(st.one_of(st.none(), SEGMENTS)),
                draw(SEGMENTS),
                7,
                draw(st.binary(max_size=5000)),
                (draw(ANY), draw(ANY)),
                draw(st.binary(max_size=9)),
                draw(st.booleans()),
                draw(ANY),
            )
        )
    return found


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(nodes(), st.booleans(), st.booleans())
def test_any_nodes(found: list[Node], keep: bool, inline: bool):
    """What is left after the refused ones is a sound file system."""
    features = ("inline_data",) if inline else ()
    refused: list[Ext4Error] = []
    try:
        made = plan(found, Options(keep_inodes=keep, features=features), on_refusal=refused.append)
    except Ext4Error:
        return
    if made.size > 1 << 32:
        return
    with TemporaryDirectory(prefix="ext4img-build-") as scratch:
        write(made, lambda _: Repeated(), Path(scratch, "i"))
        assert_clean(Path(scratch, "i"))
