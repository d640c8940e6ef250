"""What can be chosen for a rebuilt image, what is refused by name, and where its parts may come from."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ext4img
from ext4img import backup, rebuild
from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.zstd_frames import zstd_module
from ext4img.errors import AlteredArchiveError, BuildError, NotFoundError, TruncatedArchiveError
from ext4img.mkfs import Node, Options, plan, write
from ext4img.mkfs.inodes import FIRST_TIME_NS, LAST_TIME_NS
from ext4img.rebuilder.rebuild import Rebuild
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.volume.runs import UNWRITTEN
from tests import manifest
from tests.archive.enemy import EnemyArchive
from tests.archive.synthetic import TIMES, Tree, encrypted_tree, plain_tree
from tests.conftest import UnpackedImage
from tests.copies import expected_copy
from tests.manifest import Manifest, assert_none
from tests.mkfs.judges import assert_clean, head
from tests.mkfs.samples import Repeated
from tests.mkfs.test_random_trees import SLOW
from tests.mkfs.trees import Built, reader_differences, trees
from tools.loop_mount import run

LATE_NS = 16_000_000_000 * 10**9  # the year 2477, after the end of ext4's time
Fixture = Callable[[str], UnpackedImage]


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of making is the only thing of an image that is the clock's."""
    monkeypatch.setattr("ext4img.mkfs.options.time.time", lambda: 1_700_000_000)


def archive_of(image: UnpackedImage, path: Path, **choices: Any) -> Path:
    with ext4img.open(image.path) as fs:
        backup(fs, path, **choices)
    return path


def made_of(tree: Tree, path: Path, **choices: Any) -> ext4img.FileSystem:
    """A synthetic tree as an image, open."""
    rebuild(io.BytesIO(tree.archive()), path, **choices)
    assert_clean(path)
    return ext4img.open(path)


def names_in(fs: ext4img.FileSystem) -> set[bytes]:
    return {bytes(path) for path, _ in fs.walk("/")}


class TestWhereItComesFrom:
    @pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-variants", "plain-4k", "ext4-inline"])
    def test_archive_store_and_the_image_itself_give_the_same_bytes(
        self, name: str, fixture_image: Fixture, tmp_path: Path
    ):
        image = fixture_image(name)
        archive_of(image, tmp_path / "a.tar")
        archive_of(image, tmp_path / "store", format="dir")
        for source in ("a.tar", "store"):
            rebuild(tmp_path / source, tmp_path / f"{source}.img")
        with ext4img.open(image.path) as fs:
            fs_report = rebuild(fs, tmp_path / "copy.img")
        assert fs_report.complete
        expected = (tmp_path / "copy.img").read_bytes()
        assert (tmp_path / "a.tar.img").read_bytes() == expected
        assert (tmp_path / "store.img").read_bytes() == expected

    def test_any_number_of_unwritten_ranges(self, tmp_path: Path):
        ranges = tuple((number * 8192, 4096) for number in range(100))
        nodes = [Node((), 0o040755), Node((b"f",), 0o100644, size=100 * 8192, segments=(), unwritten=ranges)]
        write(plan(nodes), lambda _: Repeated(), tmp_path / "i.img")
        with ext4img.open(tmp_path / "i.img") as fs:
            backup(fs, tmp_path / "a.tar")
            rebuild(fs, tmp_path / "copy.img")
        with (tmp_path / "a.tar").open("rb") as file:
            rebuild(io.BytesIO(file.read()), tmp_path / "restored.img")
        for name in ("copy.img", "restored.img"):
            with ext4img.open(tmp_path / name) as fs:
                runs = fs.path("/f").inode.runs()
                assert [(run.lblk * 4096, run.length * 4096) for run in runs] == list(ranges)
                assert {run.state for run in runs} == {UNWRITTEN}

    def test_a_stream_is_kept_while_it_is_read(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("sample-encrypted"), tmp_path / "a.tar")
        rebuild(archive, tmp_path / "file.img")
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as stream:
            if not os.fork():
                os.close(reading)
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(archive.read_bytes())
                os._exit(0)
            os.close(writing)
            rebuild(stream, tmp_path / "stream.img")
        os.wait()
        assert (tmp_path / "stream.img").read_bytes() == (tmp_path / "file.img").read_bytes()

    def test_compressed_archives_and_those_with_other_tools_records(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("sample-encrypted")
        archive = archive_of(image, tmp_path / "a.tar")
        sources = {"encdata": archive_of(image, tmp_path / "encdata.tar", encdata=True)}
        try:
            sources["frames"] = archive_of(image, tmp_path / "frames.tar.zst", compress="zstd")
            module = zstd_module()
        except ext4img.UnsupportedFeatureError as error:
            pytest.skip(str(error))
        sources["one piece"] = tmp_path / "one-piece.tar.zst"
        sources["one piece"].write_bytes(module.compress(archive.read_bytes()))
        rebuild(archive, tmp_path / "expected.img")
        for source in sources.values():
            rebuild(source, tmp_path / "o.img", overwrite=True)
            assert (tmp_path / "o.img").read_bytes() == (tmp_path / "expected.img").read_bytes()

    def test_an_incremental_archive_and_what_it_builds_on(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("encrypted-variants")
        base = archive_of(image, tmp_path / "base.tar")
        (tmp_path / "later").mkdir()
        later = archive_of(image, tmp_path / "later" / "later.tar", since=str(base))
        assert later.stat().st_size < base.stat().st_size
        rebuild(base, tmp_path / "expected.img")
        rebuild(later, tmp_path / "o.img", bases=[base])
        assert (tmp_path / "o.img").read_bytes() == (tmp_path / "expected.img").read_bytes()

    def test_an_archive_that_is_open_stays_open(self, tmp_path: Path):
        with ext4img.Archive(io.BytesIO(plain_tree().archive())) as archive:
            rebuild(archive, tmp_path / "1.img", salvage=True)
            rebuild(archive, tmp_path / "2.img", salvage=True)
        assert (tmp_path / "1.img").read_bytes() == (tmp_path / "2.img").read_bytes()

    @settings(SLOW, max_examples=20)
    @given(trees(), st.sampled_from([1024, 4096]), st.sampled_from([1024, 2048, 4096, 65536]))
    def test_random_trees(self, tmp_path_factory: pytest.TempPathFactory, built: Built, block_size: int, new: int):
        """Built, backed up, rebuilt with blocks of another size: e2fsck and the reader see the tree."""
        directory = tmp_path_factory.mktemp("random")
        write(plan(built.nodes, Options(block_size=block_size)), built.body, directory / "built.img")
        with ext4img.open(directory / "built.img") as fs:
            backup(fs, directory / "a.tar")
        assert rebuild(directory / "a.tar", directory / "copy.img", block_size=new).complete
        assert_clean(directory / "copy.img")
        if new <= 4096:
            assert_none(reader_differences(directory / "copy.img", built))


class TestOnly:
    def test_what_is_chosen_and_what_leads_there(self, tmp_path: Path):
        with made_of(plain_tree(), tmp_path / "o.img", only=["a/fifo", b"/deep/"]) as fs:
            names = names_in(fs)
        assert {b"/a", b"/a/fifo", b"/lost+found"} < names
        assert not {b"/a/first", b"/big-ids"} & names
        assert len([name for name in names if name.startswith(b"/deep")]) == 10

    def test_a_further_name_stands_in_for_the_first(self, tmp_path: Path):
        latin = b"caf\xe9-" * 40
        with made_of(plain_tree(), tmp_path / "o.img", only=[b"a/second", latin + b"/third"]) as fs:
            one, other = fs.path(b"/a/second"), fs.path(b"/" + latin + b"/third")
            assert one.inode == other.inode
            assert one.inode.links == 2
            assert one.read_bytes() == b"hello\n"
            assert one.xattrs() == {"user.a=b%3D": b"\xff\0", "user.empty": b""}

    def test_what_is_not_there(self, tmp_path: Path):
        with pytest.raises(NotFoundError, match="a/nothing"):
            rebuild(io.BytesIO(plain_tree().archive()), tmp_path / "o.img", only=["a/nothing"])
        assert os.listdir(tmp_path) == []

    def test_plain_paths_of_an_image_with_keys(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("sample-encrypted")
        with ext4img.open(image.path) as fs:
            image.manifest.add_keys_to(fs)
            rebuild(fs, tmp_path / "o.img", only=["/home/alice"])
        assert_clean(tmp_path / "o.img")
        with ext4img.open(tmp_path / "o.img") as fs:
            fs.add_key(next(raw for raw, name in image.manifest.keys if name is None))
            shown = names_in(fs)
            expected = {path for path in image.manifest.by_path if path.startswith(b"/home/alice")}
            assert shown == expected | {b"/", b"/home", b"/lost+found"}


class TestNumbers:
    def test_all_are_kept_if_asked_for(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("plain-4k")
        rebuild(archive_of(image, tmp_path / "a.tar"), tmp_path / "o.img", keep_inodes=True)
        assert_clean(tmp_path / "o.img")
        with ext4img.open(tmp_path / "o.img") as fs:
            expected_copy(image.packed.manifest, fs, same_numbers=True)

    def test_generations_versions_and_creation_times_are(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("plain-4k")
        rebuild(archive_of(image, tmp_path / "a.tar"), tmp_path / "o.img")
        with ext4img.open(image.path) as original, ext4img.open(tmp_path / "o.img") as fs:
            copied = {bytes(path): inode for path, inode in fs.walk("/")}
            for path, inode in original.walk("/"):
                copy = copied[bytes(path)]
                for field in ("generation", "version", "crtime_ns", "atime_ns", "ctime_ns", "project_id", "links"):
                    assert getattr(copy, field) == getattr(inode, field), (path, field)


class TestRefused:
    def refuse(self, image: UnpackedImage, tmp_path: Path, match: str, **choices: Any) -> None:
        archive = archive_of(image, tmp_path / "a.tar")
        for salvage in (False, True):
            with pytest.raises(BuildError, match=match):
                rebuild(archive, tmp_path / "o.img", salvage=salvage, **choices)
        with ext4img.open(image.path) as fs, pytest.raises(BuildError, match=match):
            rebuild(fs, tmp_path / "o.img", **choices)
        assert os.listdir(tmp_path) == ["a.tar"]

    def test_another_uuid_under_iv_ino_lblk(self, fixture_image: Fixture, tmp_path: Path):
        self.refuse(fixture_image("encrypted-variants"), tmp_path, "another UUID.*IV_INO_LBLK", uuid="new")

    @pytest.mark.parametrize("block_size", [1024, 65536])
    def test_other_blocks_where_data_units_are_blocks(self, block_size: int, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("sample-encrypted")
        self.refuse(image, tmp_path, "data units are blocks of 4096 bytes; policy v", block_size=block_size)

    def test_larger_blocks_that_ciphertext_does_not_fill(self, fixture_image: Fixture, tmp_path: Path):
        with ext4img.open(fixture_image("encrypted-variants").path) as fs:
            fixture_image("encrypted-variants").manifest.add_keys_to(fs)
            with pytest.raises(BuildError, match=r"ciphertext does not fill.*data units of 512"):
                rebuild(fs, tmp_path / "o.img", only=["/data-unit-512"], block_size=16384)

    def test_other_blocks_under_verity(self, tmp_path: Path):
        with pytest.raises(BuildError, match=r"'verity': fs-verity .* blocks of 4096"):
            rebuild(io.BytesIO(plain_tree().archive()), tmp_path / "o.img", block_size=1024, salvage=True)

    def test_a_file_too_large_for_smaller_blocks(self, fixture_image: Fixture, tmp_path: Path):
        with ext4img.open(fixture_image("plain-4k").path) as fs, pytest.raises(BuildError, match="'extents/huge'"):
            rebuild(fs, tmp_path / "o.img", block_size=2048)

    def test_too_small(self, fixture_image: Fixture, tmp_path: Path):
        self.refuse(fixture_image("plain-4k"), tmp_path, "are too small", size=1 << 20)

    def test_a_feature_that_is_needed(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("sample-encrypted"), tmp_path / "a.tar")
        with pytest.raises(BuildError, match="encrypt, which was refused"):
            rebuild(archive, tmp_path / "o.img", features=["^encrypt"])

    def test_what_is_there_already(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("plain-4k"), tmp_path / "a.tar")
        (tmp_path / "o.img").write_bytes(b"precious")
        with pytest.raises(BuildError, match="already exists"):
            rebuild(archive, tmp_path / "o.img")
        with pytest.raises(BuildError, match="too small"):
            rebuild(archive, tmp_path / "o.img", overwrite=True, size=1 << 20)
        assert (tmp_path / "o.img").read_bytes() == b"precious"
        rebuild(archive, tmp_path / "o.img", overwrite=True)
        assert_clean(tmp_path / "o.img")


class TestChoices:
    def test_smaller_blocks_under_explicit_data_units(self, fixture_image: Fixture, tmp_path: Path):
        image = fixture_image("encrypted-variants")
        with ext4img.open(image.path) as fs:
            image.manifest.add_keys_to(fs)
            rebuild(fs, tmp_path / "o.img", only=["/data-unit-512"], block_size=1024)
        assert_clean(tmp_path / "o.img")
        expected = part_of(image.manifest, "/data-unit-512")
        with ext4img.open(tmp_path / "o.img") as fs:
            assert fs.block_size == 1024
            expected.add_keys_to(fs)
            for entry in expected.entries:
                entry.pop("data_segments", None)  # the copy has smaller ones
            assert_none(manifest.content_differences(fs, expected))

    def test_uuid_label_size_and_features(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("plain-4k"), tmp_path / "a.tar")
        wanted = uuid.UUID(int=7)
        features = ["^metadata_csum", "inline_data"]
        rebuild(archive, tmp_path / "o.img", uuid=wanted, label="new name", size=32 << 20, features=features)
        assert_clean(tmp_path / "o.img")
        facts = head(tmp_path / "o.img")
        assert (tmp_path / "o.img").stat().st_size == 32 << 20
        assert facts["Filesystem UUID"] == str(wanted)
        assert facts["Filesystem volume name"] == "new name"
        assert "inline_data" in facts["Filesystem features"].split()
        assert "metadata_csum" not in facts["Filesystem features"].split()
        assert "has_journal" in facts["Filesystem features"].split()
        rebuild(archive, tmp_path / "new.img", uuid="new")
        assert head(tmp_path / "new.img")["Filesystem UUID"] != str(wanted)

    def test_automatic_size_leaves_the_room_that_is_stated(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("plain-4k"), tmp_path / "a.tar")
        free = []
        for spare in (0, 50):
            rebuild(archive, tmp_path / f"{spare}.img", spare_percent=spare)
            assert_clean(tmp_path / f"{spare}.img")
            facts = head(tmp_path / f"{spare}.img")
            free.append(int(facts["Free blocks"]) / (int(facts["Block count"]) - int(facts["Free blocks"])))
        assert free[0] < 0.05
        assert free[1] > 0.3

    def test_a_plan_writes_nothing(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("sample-encrypted"), tmp_path / "a.tar")
        with Rebuild(archive) as planned:
            summary = planned.plan.summary()
            lines = list(planned.plan.lines())
            assert planned.report.made["file"] > 50
        assert os.listdir(tmp_path) == ["a.tar"]
        assert summary["block_size"] == 4096
        assert any("of inode" in line for line in lines)

    def test_progress(self, fixture_image: Fixture, tmp_path: Path):
        archive = archive_of(fixture_image("plain-4k"), tmp_path / "a.tar")
        told: list[tuple[int, int | None]] = []
        report = rebuild(archive, tmp_path / "o.img", progress=lambda done, total: told.append((done, total)))
        assert {total for _, total in told} == {archive.stat().st_size, report.size}
        assert all(total is not None and done <= total for done, total in told)


def part_of(whole: Manifest, top: str) -> Manifest:
    """The manifest of one directory, and its keys."""
    part = Manifest.__new__(Manifest)
    part.head = {**whole.head, "keys": [key for key in whole.head["keys"] if key["policy_root"] == top]}
    part.entries = [dict(entry) for entry in whole.entries if entry["path"].startswith(top)]
    return part


class TestWhatExt4CannotHold:
    def tree(self) -> Tree:
        tree = Tree()
        tree.add(b"a-device", "char", rdev=(5000, 1))
        top = tree.add(b"c-dir", "dir", xattrs={"user.a": b"v" * 70_000})
        tree.add(top.path + b"/below", "dir")
        tree.add(top.path + b"/below/file", "file", b"lost")
        tree.add(b"d-link", "symlink", link_target=b"t" * 5000)
        tree.add(b"e-attribute", "file", b"kept", xattrs={"strange.name": b"1", "user.good": b"2"})
        first = tree.add(b"f-first", "file", b"gone", links=2, xattrs={"user.a": b"v" * 70_000})
        tree.add_link(b"g-second", first)
        tree.add(b"sound", "file", b"sound")
        return tree

    def test_is_an_error_with_its_path(self, tmp_path: Path):
        with pytest.raises(BuildError, match=r"a-device.*5000"):
            rebuild(io.BytesIO(self.tree().archive()), tmp_path / "o.img", salvage=False)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("salvage", [None, True])
    def test_is_left_out_and_told(self, salvage: bool | None, tmp_path: Path):
        report = rebuild(io.BytesIO(self.tree().archive()), tmp_path / "o.img", salvage=salvage)
        assert_clean(tmp_path / "o.img")
        assert not report.complete
        assert report.left_out == 7
        assert report.made == {"dir": 1, "file": 2}
        told = "\n".join(str(problem) for problem in report.problems)
        for name in ("a-device", "c-dir", "d-link", "e-attribute", "f-first", "g-second"):
            assert name in told
        with ext4img.open(tmp_path / "o.img") as fs:
            assert names_in(fs) == {b"/", b"/lost+found", b"/sound", b"/e-attribute"}
            assert fs.path("/e-attribute").xattrs() == {"user.good": b"2"}
            assert fs.path("/sound").read_bytes() == b"sound"

    @pytest.mark.parametrize("salvage", [False, True])
    def test_of_times_outside_its_range_the_nearest_is_there(self, salvage: bool, tmp_path: Path):
        tree = Tree()
        tree.add(b"early", "dir", ctime_ns=-LATE_NS)
        tree.add(b"early/file", "file", b"there")
        first = tree.add(b"late", "file", b"late", links=2, mtime_ns=LATE_NS, crtime_ns=LATE_NS)
        tree.add_link(b"later", first, mtime_ns=LATE_NS)
        tree.add(b"odd", "file", b"odd", mtime_ns=LAST_TIME_NS)  # as images have them whose nanoseconds are too many
        report = rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=salvage)
        assert_clean(tmp_path / "o.img")
        assert (report.left_out, report.complete) == (0, False)
        assert [problem.path for problem in report.problems] == ["early", "late"]
        assert f"ctime_ns {-LATE_NS}: " in str(report.problems[0])
        with ext4img.open(tmp_path / "o.img") as fs:
            assert fs.path("/early").inode.ctime_ns == FIRST_TIME_NS
            assert fs.path("/early/file").read_bytes() == b"there"
            late = fs.path("/later").inode
            assert (late.mtime_ns, late.crtime_ns, late.atime_ns) == (LAST_TIME_NS, LAST_TIME_NS, TIMES["atime_ns"])
            assert fs.path("/odd").inode.mtime_ns == LAST_TIME_NS


class TestDamagedArchives:
    @pytest.mark.parametrize("make", [plain_tree, encrypted_tree])
    def test_an_altered_body_leaves_no_image(self, make: Callable[[], Tree], tmp_path: Path):
        data = bytearray(make().archive())
        with ext4img.Archive(io.BytesIO(data)) as archive:
            lines = [line for line in archive.manifest() if line.data_size and line.inode]
        for line in lines[:: max(len(lines) // 6, 1)]:
            data[line.data_offset + line.data_size - 1] ^= 1
            with pytest.raises(AlteredArchiveError):
                rebuild(io.BytesIO(data), tmp_path / "o.img", salvage=True)
            data[line.data_offset + line.data_size - 1] ^= 1
            assert os.listdir(tmp_path) == []
        rebuild(io.BytesIO(data), tmp_path / "o.img", salvage=True)

    @pytest.mark.parametrize("at", [0, 65_535, 150_000, 299_999])
    def test_an_altered_body_of_any_size(self, at: int, tmp_path: Path):
        """Small ones are verified when they are first wanted, large ones with their last byte."""
        tree = Tree()
        tree.add(b"before", "file", b"b" * 65_536)
        tree.add(b"large", "file", b"l" * 300_000)
        tree.add(b"small", "file", b"s" * 65_536)
        data = bytearray(tree.archive())
        for name, fill, size in ((b"before", b"b", 65_536), (b"large", b"l", 300_000), (b"small", b"s", 65_536)):
            start = data.index(fill * 1000)
            changed = start + min(at, size - 1)
            data[changed] ^= 1
            with pytest.raises(AlteredArchiveError, match=name.decode()):
                rebuild(io.BytesIO(data), tmp_path / "o.img")
            data[changed] ^= 1
            assert os.listdir(tmp_path) == []

    def test_the_member_is_named(self, tmp_path: Path):
        data = bytearray(plain_tree().archive())
        data[data.index(b"a path of 500 bytes")] ^= 1
        with pytest.raises(AlteredArchiveError, match="leaf"):
            rebuild(io.BytesIO(data), tmp_path / "o.img", salvage=True)

    @pytest.mark.parametrize("digest", ["z" * 64, "ab" * 31 + "  ", "é" * 64])
    def test_a_digest_that_is_none(self, digest: str, tmp_path: Path):
        archive = EnemyArchive().root()
        archive.add(b"f", data=b"contents", line={"data_sha256": digest})
        with pytest.raises(AlteredArchiveError):
            rebuild(io.BytesIO(archive.bytes()), tmp_path / "o.img")

    def test_truncated(self, tmp_path: Path):
        data = plain_tree().archive()
        with pytest.raises(TruncatedArchiveError):
            rebuild(io.BytesIO(data[: len(data) // 2]), tmp_path / "o.img")
        assert os.listdir(tmp_path) == []

    def test_names_and_directories_that_contradict_each_other(self, tmp_path: Path):
        for change in ({"stored_name": None}, {"stored_name": b"n" * 16}):
            tree = encrypted_tree()
            wanted = b"plain.txt" if change["stored_name"] else b"/"
            at = next(i for i, (entry, _) in enumerate(tree.members) if wanted in entry.path and entry.type == "file")
            entry, body = tree.members[at]
            tree.members[at] = (entry._replace(**change), body)
            with pytest.raises(AlteredArchiveError):
                rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=True)

    def test_a_link_into_another_policy(self, tmp_path: Path):
        tree = encrypted_tree()
        top = next(entry for entry, _ in tree.members if entry.type == "dir" and entry.context)
        plain = tree.add(b"0-plain", "file", b"plain", links=2)
        stored = b"s" * 32
        from ext4img.names.nokey import nokey_name

        tree.add_link(top.path + b"/" + nokey_name(stored, 0, 0), plain, stored_name=stored)
        with pytest.raises(BuildError, match="policy"):
            rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=False)
        report = rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img")
        assert report.left_out == 1
        assert_clean(tmp_path / "o.img")

    def test_two_files_of_one_inode_number(self, tmp_path: Path):
        """Their numbers are not kept, so there is room for both; but not for links, which could mean either."""
        tree = Tree()
        tree.add(b"a", "file", b"one", inode=20)
        tree.add(b"b", "file", b"another", inode=20)
        for salvage in (False, True):
            with made_of(tree, tmp_path / "o.img", salvage=salvage, overwrite=True) as fs:
                assert [fs.path(name).read_bytes() for name in ("/a", "/b")] == [b"one", b"another"]
        archive = tree.archive()
        with pytest.raises(BuildError, match="'b': inode number 20 is also that of '/a'"):
            rebuild(io.BytesIO(archive), tmp_path / "o.img", salvage=False, keep_inodes=True, overwrite=True)
        report = rebuild(io.BytesIO(archive), tmp_path / "o.img", keep_inodes=True, overwrite=True)
        assert (report.left_out, report.made["file"]) == (1, 1)
        tree = Tree()
        tree.add(b"a", "file", b"one", inode=20, links=2)
        second = tree.add(b"b", "file", b"another", inode=20, links=2)
        tree.add_link(b"c", second)
        with pytest.raises(BuildError, match="another file of several names also has the inode number 20"):
            rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=False, overwrite=True)
        report = rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", overwrite=True)
        assert (report.left_out, report.made) == (2, {"dir": 1, "file": 1})
        assert_clean(tmp_path / "o.img")

    def test_two_verity_files_of_one_inode_number(self, tmp_path: Path):
        tree = Tree()
        for name in (b"a", b"b"):
            tree.add(name, "file", name, inode=20, flags=EXT4_VERITY_FL)
        tree.members.append((Entry(b"b", VERITY, 0, inode=20, body_size=4096, segments=((0, 4096),)), b"m" * 4096))
        with pytest.raises(BuildError, match="a second file with fs-verity"):
            rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=False)
        report = rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img")
        assert (report.left_out, report.made) == (1, {"dir": 1, "file": 1})

    def test_a_name_that_is_not_marked_as_a_further_one(self, tmp_path: Path):
        """As of images with wrong link counts: it is the same file."""
        tree = Tree()
        for name in (b"a", b"b", b"c"):
            tree.add(name, "file", b"same", inode=20, links=2)
        with made_of(tree, tmp_path / "o.img") as fs:
            assert [fs.path(name).inode.links for name in ("/a", "/b", "/c")] == [3, 3, 3]
            assert fs.path("/c").read_bytes() == b"same"

    def test_attributes_without_end(self, tmp_path: Path):
        tree = Tree()
        tree.add(b"f", "file", b"x", xattrs={f"user.{number}": b"" for number in range(8000)})
        with pytest.raises(BuildError, match="'f': the names of [0-9]+ extended attributes do not fit"):
            rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", salvage=False)

    def test_inode_numbers_without_end(self, tmp_path: Path):
        tree = Tree()
        tree.add(b"f", "file", b"x", inode=0xFFFFFFFF)
        with pytest.raises(BuildError, match="4294967295 inodes are needed"):
            rebuild(io.BytesIO(tree.archive()), tmp_path / "o.img", keep_inodes=True)
        assert_clean_of(tree, tmp_path)


def assert_clean_of(tree: Tree, tmp_path: Path) -> None:
    with made_of(tree, tmp_path / "o.img") as fs:
        assert fs.path("/f").read_bytes() == b"x"


def test_an_entry_is_what_the_new_image_gives_again(tmp_path: Path):
    """Synthetic trees → image → backup: the same entries, but for what the image decides."""
    for make in (plain_tree, encrypted_tree):
        tree = make()
        path = tmp_path / "o.img"
        report = rebuild(io.BytesIO(tree.archive()), path, keep_inodes=True, overwrite=True, salvage=True)
        with ext4img.open(path) as fs:
            backup(fs, tmp_path / "again.tar", overwrite=True)
        with ext4img.Archive(tmp_path / "again.tar") as again:
            found = {(member.entry.path, member.entry.type): member.entry for member in again}
        left_out = {str(problem.path) for problem in report.problems}
        for entry, _ in tree.members:
            if entry.shown in left_out or entry.path == b".":
                continue
            got = found[entry.path, entry.type]
            assert comparable(got) == comparable(entry), entry.path


def comparable(entry: Entry) -> Entry:
    """Without what the layout of the image decides."""
    size = entry.size if entry.type == "file" else 0
    links = entry.links if entry.type != "dir" else 0
    flags = entry.flags & 0x00100800
    return entry._replace(size=size, links=links, flags=flags, xattrs=dict(entry.xattrs), segments=())


WRONG_CHILDREN = {
    "a plain file": "ln /README.txt /home/alice/ABCDEFGHIJKLMNOP\nsif /README.txt links_count 2",
    "another policy": "ln <{bob}> /home/alice/ABCDEFGHIJKLMNOP\nsif <{bob}> links_count 2",
    "a name that is too short": "ln /README.txt /home/alice/short\nsif /README.txt links_count 2",
    "a size beyond all limits": "sif /README.txt size 35184372088832",
    "a type that does not exist": "sif /README.txt mode 0644",
    "inline data with extents": "sif /README.txt flags 0x10080000",
}


@pytest.mark.parametrize("kind", WRONG_CHILDREN)
def test_a_wrong_inode_or_name_never_refuses_the_whole(kind: str, fixture_image: Fixture, tmp_path: Path):
    image = tmp_path / "a.img"
    image.write_bytes(fixture_image("sample-encrypted").path.read_bytes())
    with ext4img.open(image) as fs:
        bob = next(inode.number for _, inode in fs.walk("/home/bob") if inode.is_file and inode.links == 1)
    run("debugfs", "-w", "-f", "-", image, stdin=WRONG_CHILDREN[kind].format(bob=bob).encode())
    with ext4img.open(image, checks="report") as fs:
        names = names_in(fs)
        report = rebuild(fs, tmp_path / "copy.img")
        assert report.left_out or fs.problems
        backup(fs, tmp_path / "a.tar")
    rebuild(tmp_path / "a.tar", tmp_path / "restored.img")
    for made in (tmp_path / "copy.img", tmp_path / "restored.img"):
        assert_clean(made)
        with ext4img.open(made) as fs:
            assert len(names_in(fs)) >= len(names) - 2
            assert b"/home/bob" in names_in(fs)
