"""What reading had to leave out is in the backup, and every command that reads it knows."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

import ext4img
from ext4img.archive.incremental_base import IncrementalBase
from ext4img.archive.loss import Loss, build_loss, parse_loss
from ext4img.archive.manifest_line import build_closing, parse_line
from ext4img.cli.main import main
from ext4img.errors import AlteredArchiveError, UnsupportedFeatureError
from ext4img.sources import BytesSource
from tests.faulty_source import FaultySource
from tools.loop_mount import run

BLOCK = 1024
FILES = ("file", "xattr", "big")


class Damaged:
    """A sound image and the same one with damage, and what of it is to be recorded."""

    def __init__(self, directory: Path) -> None:
        self.sound = directory / "sound"
        self.image = directory / "damaged"
        run("mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-O", "^has_journal", "-F", self.sound, "8M")
        for name, contents in (
            ("file", b"f" * 5000),
            ("xattr", b"x" * 100),
            ("big", b"b" * 300_000),
            ("value", b"v" * 900),
        ):
            (directory / name).write_bytes(contents)
        commands = [
            *("mkdir d", "mkdir cut", "mkdir sound"),
            *(f"write {directory / name} {name}" for name in FILES),
            *(f"write {directory / 'file'} d/{number}" for number in range(3)),
            f"write {directory / 'file'} sound/kept",
            f"ea_set -f {directory / 'value'} xattr user.long",
            *("mknod gone p", "ln <100> ghost"),
        ]
        run("debugfs", "-w", "-f", "-", self.sound, stdin="\n".join(commands).encode())
        shutil.copy(self.sound, self.image)
        self.zero_block("blocks d")
        self.zero_block("blocks cut")
        run("debugfs", "-w", "-R", "set_inode_field gone mode 0", self.image)
        with ext4img.open(self.sound) as fs:
            block = fs.path("/xattr").inode.xattr_block
            self.run = max(fs.path("/big").inode.runs(), key=lambda run: run.length)
            self.numbers = {name: fs.path(name).inode.number for name in (*FILES, "d", "cut", "gone")}
        run("dd", "if=/dev/zero", f"of={self.image}", f"bs={BLOCK}", f"seek={block}", "count=1", "conv=notrunc")
        run("debugfs", "-w", "-R", "unlink ghost", self.sound)
        self.source = FaultySource(
            BytesSource(self.image.read_bytes()),
            [
                ((self.run.pblk + 2) * BLOCK, (self.run.pblk + 5) * BLOCK),
                ((self.run.pblk + 9) * BLOCK, (self.run.pblk + 10) * BLOCK),
            ],
        )
        self.expected = {
            ("names", b"d", self.numbers["d"]),
            ("names", b"cut", self.numbers["cut"]),
            ("attributes", b"xattr", self.numbers["xattr"]),
            ("entry", b"gone", self.numbers["gone"]),
            ("entry", b"ghost", 100),
            ("contents", b"big", self.numbers["big"]),
        }
        self.ranges = ((self.run.lblk + 2) * BLOCK, 3 * BLOCK), ((self.run.lblk + 9) * BLOCK, BLOCK)

    def zero_block(self, request: str) -> None:
        block = int(run("debugfs", "-R", request, self.image).split()[0])
        run("dd", "if=/dev/zero", f"of={self.image}", f"bs={BLOCK}", f"seek={block}", "count=1", "conv=notrunc")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return Damaged(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="module")
def archives(damaged: Damaged, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The backup of the damaged image in each form."""
    directory = tmp_path_factory.mktemp("archives")
    found = {name: directory / name for name in ("tar", "dir", "zstd", "off", "extracted")}
    with ext4img.open(damaged.source, checks="report") as fs:
        reports = [
            ext4img.backup(fs, found["tar"]),
            ext4img.backup(fs, found["dir"], format="dir"),
            ext4img.backup(fs, found["zstd"], compress="zstd"),
        ]
    with ext4img.open(damaged.source, checks="off") as fs:
        reports.append(ext4img.backup(fs, found["off"]))
        assert not fs.problems
    for report in reports:
        assert (report.incomplete, report.losses) == (1, 5)
    found["extracted"].mkdir()
    run("tar", "-xf", found["tar"], "-C", found["extracted"], "--xattrs", "--xattrs-include=*")
    return found


def losses_of(backup: ext4img.BackupSource) -> set[tuple[str, bytes, int]]:
    return {(loss.what, loss.path, loss.inode) for loss in backup.losses}


@pytest.mark.parametrize("form", ["tar", "dir", "zstd", "off", "extracted"])
def test_every_form_of_backup_has_them(form: str, archives: dict[str, Path], damaged: Damaged):
    with closing(ext4img.open_backup(archives[form])) as backup:
        assert losses_of(backup) == damaged.expected
        assert backup.losses.total == len(damaged.expected)
        assert {loss.ranges for loss in backup.losses} == {(), damaged.ranges}
        members = {member.entry.path: member.unreadable for member in backup.members()}
    assert members[b"big"] == damaged.ranges
    assert {*FILES} <= {path.decode() for path in members}


def test_a_stream_has_them_at_its_end(archives: dict[str, Path], damaged: Damaged):
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with closing(ext4img.open_backup(Stream(archives["tar"].read_bytes()))) as backup:
        for _ in backup.members():
            pass
        assert losses_of(backup) == damaged.expected


@pytest.mark.parametrize("form", ["tar", "dir", "extracted"])
@pytest.mark.parametrize(
    "words",
    [
        ["verify", "ARCHIVE"],
        ["list", "--info", "ARCHIVE"],
        ["restore", "ARCHIVE", "OUT"],
        ["restore", "--dry-run", "ARCHIVE", "OUT"],
        ["restore", "ARCHIVE", "--image", "OUT"],
    ],
    ids=" ".join,
)
def test_every_command_tells_them(
    words: list[str],
    form: str,
    archives: dict[str, Path],
    damaged: Damaged,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    places = {"ARCHIVE": str(archives[form]), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 1
    told = capfd.readouterr().err
    missing = [
        what
        for what in ("'d': names", "'cut': names", "'xattr': attributes", "'gone': is", "'ghost': is")
        if what not in told
    ]
    assert not missing, told
    (offset, length), _ = damaged.ranges
    assert f"{length} bytes at {offset}" in told


def test_json(archives: dict[str, Path], damaged: Damaged, capfd: pytest.CaptureFixture[str]):
    for command in (["verify"], ["list", "--info"]):
        assert main([*command, "--json", str(archives["tar"])]) == 1
        record = json.loads(capfd.readouterr().out.splitlines()[0])
        assert record["losses"] == 6
        assert {(loss["what"], loss["path"]) for loss in record["lost"]} >= {("names", "d"), ("entry", "ghost")}
        ranges = [loss["ranges"] for loss in record["lost"] if loss["what"] == "contents"]
        assert ranges == [[list(part) for part in damaged.ranges]]


@pytest.mark.parametrize("form", ["tar", "dir", "extracted"])
def test_dump_tells_those_of_its_file(form: str, archives: dict[str, Path], capfd: pytest.CaptureFixture[str]):
    for name, code in (("file", 0), ("sound/kept", 0), ("big", 1), ("xattr", 1)):
        assert main(["dump", str(archives[form]), name]) == code, name
        assert (f"{name}" in capfd.readouterr().err) == bool(code)


def test_only_what_was_wanted_counts(archives: dict[str, Path], tmp_path: Path):
    assert main(["restore", "-q", "--only", "sound", str(archives["tar"]), str(tmp_path / "out")]) == 0
    assert main(["restore", "-q", "--only", "d", str(archives["tar"]), str(tmp_path / "other")]) == 1


def test_the_next_backup_of_a_sound_image_has_everything(archives: dict[str, Path], damaged: Damaged, tmp_path: Path):
    """Nothing that lacks something in the base is taken as unchanged, though its inode is the same."""
    with ext4img.open(damaged.sound) as fs:
        report = ext4img.backup(fs, tmp_path / "next", since=archives["tar"])
        assert report.losses == report.incomplete == 0
        assert report.unchanged >= 2
    with closing(ext4img.open_backup(tmp_path / "next", [archives["tar"]])) as backup:
        assert not backup.losses
        stored = {member.entry.path: member.entry.xattrs for member in backup.members()}
        assert stored[b"xattr"] == {"user.long": b"v" * 900}
        assert backup.member(b"big").read() == b"b" * 300_000
    bases = ["--base", str(archives["tar"])]
    assert main(["verify", *bases, "--against", str(damaged.sound), str(tmp_path / "next")]) == 0
    # And with damage again they are recorded again.
    with ext4img.open(damaged.source, checks="report") as fs:
        report = ext4img.backup(fs, tmp_path / "again", since=archives["tar"])
        assert (report.losses, report.incomplete) == (5, 1)


def test_what_an_earlier_archive_has_in_full_is_no_loss(
    damaged: Damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Unless its times leave a doubt, which needs reading it again."""
    monkeypatch.setattr(IncrementalBase, "is_in_doubt", lambda *_: False)
    with ext4img.open(damaged.sound) as fs:
        ext4img.backup(fs, tmp_path / "first")
    with ext4img.open(damaged.source, checks="report") as fs:
        report = ext4img.backup(fs, tmp_path / "next", since=tmp_path / "first")
    assert report.incomplete == 0
    with closing(ext4img.open_backup(tmp_path / "next")) as backup:
        assert losses_of(backup) == {loss for loss in damaged.expected if loss[1] not in (b"big", b"xattr")}
        assert backup.member(b"big").read() == b"b" * 300_000


def test_a_sound_backup_is_as_it_always_was(damaged: Damaged, tmp_path: Path):
    """Earlier readers know all that is in it: no new line, no new key."""
    with ext4img.open(damaged.sound, checks="report") as fs:
        ext4img.backup(fs, tmp_path / "archive")
        assert not fs.problems
    with ext4img.Archive(tmp_path / "archive") as archive:
        closing_line = build_closing(archive.closing) if archive.closing else b""
        assert all(raw.startswith(b'{"path":') for raw in archive.raw_manifest())
    assert json.loads(closing_line).keys() == {"members", "offset", "sha256", "incomplete", "last_write"}


def test_the_closing_line_requires_a_reader_that_knows_losses(archives: dict[str, Path]):
    with ext4img.Archive(archives["tar"]) as archive:
        assert archive.closing
        raw = build_closing(archive.closing)
    assert json.loads(raw)["requires"] == ["losses"]
    with pytest.raises(UnsupportedFeatureError, match="requires holography"):
        parse_line(raw.replace(b'"losses"]', b'"holography"]'))


def test_lines():
    loss = Loss("names", b"d\xff/.ext4img", 12, "why \udcff")
    assert parse_loss(build_loss(loss)) == loss
    assert parse_loss(build_loss(loss._replace(path=b"."))) == loss._replace(path=b".")
    for raw in (
        b'{"lost":"names"}',
        b'{"lost":"mind","path":"a","inode":1,"reason":""}',
        b'{"lost":',
        b'{"lost":"names","path":"../x","inode":1,"reason":""}',
    ):
        with pytest.raises((AlteredArchiveError, ext4img.ArchiveError)):
            parse_loss(raw)


@pytest.mark.parametrize("change", ["drop", "move", "twice"])
def test_losses_that_were_tampered_with(change: str, archives: dict[str, Path], tmp_path: Path):
    """In a store, where lines are easily changed."""
    shutil.copytree(archives["dir"], tmp_path / "store")
    path = tmp_path / "store" / "entries.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "drop":
        del lines[-2]
    elif change == "move":
        lines.insert(1, lines.pop(-2))
    else:
        lines.insert(-1, lines[-2])
    path.write_bytes(b"".join(lines))
    with pytest.raises(AlteredArchiveError):
        ext4img.open_backup(tmp_path / "store")


@pytest.mark.parametrize("form", ["tar", "dir"])
def test_an_image_that_cannot_be_read_is_not_blamed_on_the_archive(form: str, damaged: Damaged, tmp_path: Path):
    """The error is the image's, though it is one of the operating system as well."""
    source = FaultySource(
        BytesSource(damaged.sound.read_bytes()), [(damaged.run.pblk * BLOCK, (damaged.run.pblk + 1) * BLOCK)]
    )
    with ext4img.open(source) as fs, pytest.raises(ext4img.SourceError, match="Input/output error"):
        ext4img.backup(fs, tmp_path / "archive", format="dir" if form == "dir" else "tar")
    assert not list(tmp_path.iterdir())
