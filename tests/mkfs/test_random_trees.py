"""Random trees: built, checked by e2fsck, and read back by the reader and the kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ext4img.mkfs import Options, plan, write
from tests.mkfs.judges import assert_clean
from tests.mkfs.trees import Built, kernel_differences, reader_differences, trees
from tools.loop_mount import loop_mounted

SLOW = settings(
    deadline=None,
    max_examples=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking a file system takes longer than reading it
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
FEATURES = [
    (),
    ("inline_data",),
    ("^metadata_csum",),
    ("^metadata_csum", "uninit_bg"),
    ("^64bit", "^flex_bg"),
    ("^resize_inode", "^has_journal"),
    ("^sparse_super",),
    ("^dir_index",),
    ("metadata_csum_seed", "large_dir", "inline_data"),
    ("orphan_file", "fast_commit"),
]


@st.composite
def options(draw: st.DrawFn, block_sizes: tuple[int, ...]) -> Options:
    block_size = draw(st.sampled_from(block_sizes))
    return Options(
        block_size=block_size,
        inode_size=draw(st.sampled_from([256, 256, 512, 1024])),
        features=draw(st.sampled_from(FEATURES)),
        hash_version=draw(st.sampled_from(["legacy", "half_md4", "tea"])),
        hash_unsigned=draw(st.booleans()),
        size=draw(st.sampled_from([None, None, 64 << 20, 300 << 20])),
        created_s=1_700_000_000,
    )


@contextmanager
def image_of(built: Built, wanted: Options) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ext4img-build-") as scratch:
        path = Path(scratch, "built.img")
        write(plan(built.nodes, wanted), built.body, path)
        yield path


@SLOW
@given(trees(), options((1024, 2048, 4096, 65536)))
def test_e2fsck_and_the_reader_agree(built: Built, wanted: Options):
    with image_of(built, wanted) as image:
        assert_clean(image)
        if wanted.block_size <= 4096:
            assert list(reader_differences(image, built)) == []


@SLOW
@given(trees(plain_extra=False))
def test_inodes_of_128_bytes(built: Built):
    with image_of(built, Options(inode_size=128, features=("^extra_isize",))) as image:
        assert_clean(image)
        assert list(reader_differences(image, built)) == []


@pytest.mark.kernel
@settings(SLOW, max_examples=25)
@given(trees(), options((1024, 2048, 4096)))
def test_the_kernel_shows_the_nodes(built: Built, wanted: Options):
    with image_of(built, wanted) as image:
        with loop_mounted(image, "ro,noatime,noload") as mount:
            assert list(kernel_differences(mount, built, wanted.block_size)) == []
        # Many kernels have no quotas, and with the feature project they mount read-only alone.
        if not any(node.project_id for node in built.nodes):
            with loop_mounted(image, "rw,noatime"):
                pass  # journal, descriptors and bitmaps are good enough to write to
            assert_clean(image)
