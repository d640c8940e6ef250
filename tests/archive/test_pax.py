"""Headers survive a round trip, malformed ones are refused, and Python's tarfile reads the same."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.archive import pax_reader
from ext4img.archive import pax_records as framing
from ext4img.archive.input import ArchiveInput
from ext4img.archive.pax_reader import read_header
from ext4img.archive.pax_records import parse_records, pax_record, pax_time
from ext4img.archive.pax_writer import encode
from ext4img.archive.tar_header import TarHeader
from ext4img.errors import AlteredArchiveError, Ext4Error, TruncatedArchiveError
from ext4img.structs.tar import DIRTYPE, REGTYPE, SYMTYPE
from tests.archive.enemy import TIMES

components = st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 0x2F} & set(name))
paths = st.lists(components, min_size=1, max_size=12).map(b"/".join)
times = st.integers(-(1 << 31) * 10**9, (1 << 34) * 10**9)
ids = st.integers(0, (1 << 32) - 1)


def parse(raw: bytes) -> TarHeader:
    found = read_header(ArchiveInput(io.BytesIO(raw + bytes(1024))).cursor())
    assert found is not None
    assert found[1] == raw
    return found[0]


@given(
    paths,
    st.integers(0, 0o7777),
    ids,
    ids,
    st.integers(0, (1 << 63) - 1),
    st.tuples(times, times, times),
    st.dictionaries(st.binary(min_size=1, max_size=30).filter(lambda key: 0 not in key), st.binary(max_size=300)),
)
def test_there_and_back(path, mode, uid, gid, size, stamps, xattrs):
    header = TarHeader(path, REGTYPE, mode, uid, gid, size, stamps, xattrs=xattrs)
    assert parse(encode(header)) == header
    if not path.endswith(b"/"):
        sparse = header._replace(sparse_size=size)
        assert parse(encode(sparse)) == sparse


@given(paths, paths)
def test_links_there_and_back(path: bytes, target: bytes):
    header = TarHeader(path, SYMTYPE, times=TIMES, linkpath=target)
    assert parse(encode(header)) == header


@given(paths, st.tuples(times, times, times), ids)
def test_tarfile_reads_it_so_too(path: bytes, stamps: tuple[int, int, int], uid: int):
    header = TarHeader(path, DIRTYPE, 0o750, uid, 7, times=stamps, xattrs={b"user.x": b"a\nb"})
    with tarfile.open(fileobj=io.BytesIO(encode(header) + bytes(1024)), errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    assert member.name.encode("utf-8", "surrogateescape") == path.rstrip(b"/")
    assert (member.mode, member.uid, member.gid, member.type) == (0o750, uid, 7, DIRTYPE)
    assert member.mtime == pytest.approx(stamps[0] / 1e9)
    assert member.pax_headers["SCHILY.xattr.user.x"] == "a\nb"


def test_records_count_themselves():
    for length in range(1, 1100):
        record = pax_record(b"k", b"v" * length)
        assert int(record.split(b" ")[0]) == len(record)


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(0, b"0"), (1, b"0.000000001"), (-1, b"-0.000000001"), (-1_500_000_000, b"-1.5"), (10**10, b"10")],
)
def test_times(time_ns: int, text: bytes):
    assert pax_time(time_ns) == text


SOUND = encode(TarHeader(b"f", REGTYPE, times=TIMES, xattrs={b"user.x": b"y"}))


@pytest.mark.parametrize("length", [1, 511, 512, 513, 1000, 1024, 1500])
def test_cut_short(length: int):
    with pytest.raises(TruncatedArchiveError):
        read_header(ArchiveInput(io.BytesIO(SOUND[:length])).cursor())


@given(st.integers(0, 512 * 8 - 1), st.sampled_from([0, 2]))  # block 1 has only the manifest's digest
def test_every_flipped_bit_of_a_block_is_refused(position: int, block: int):
    raw = bytearray(SOUND)
    raw[block * 512 + position // 8] ^= 1 << position % 8
    if position // 8 in (154, 155):  # what ends the checksum may be NUL or space
        return
    with pytest.raises(Ext4Error):
        parse(bytes(raw))


def pax(records: bytes, size: int | None = None) -> bytes:
    """A file member behind pax records as they are given."""
    head = encode(TarHeader(b"f", REGTYPE, times=TIMES))
    size = len(records) if size is None else size
    block = bytearray(head[:512])
    block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + records + bytes(-len(records) % 512) + head[-512:]


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("a length too long", pax(b"99 path=a\n")),
        ("a length too short", pax(b"5 path=a\n")),
        ("a length of nothing", pax(b" path=a\n")),
        ("a length with a sign", pax(b"+9 path=a\n")),
        ("a length with a zero before it", pax(b"010 path=a\n")),
        ("an endless length", pax(b"9" * 300)),
        ("no newline", pax(b"9 path=a!")),
        ("no equals sign", pax(b"8 patha\n")),
        ("the same key twice", pax(pax_record(b"uid", b"1") * 2)),
        ("a key that is not ours", pax(pax_record(b"comment", b"hello"))),
        ("hdrcharset", pax(pax_record(b"hdrcharset", b"BINARY"))),
        ("another name than the block's", pax(pax_record(b"path", b"x" * 200))),
        ("a short name", pax(pax_record(b"path", b"f"))),
        ("a negative size", pax(pax_record(b"size", b"-1"))),
        ("a huge size", pax(pax_record(b"size", b"9" * 30))),
        ("a user that is no number", pax(pax_record(b"uid", b"root"))),
        ("times that are none", pax(b"".join(pax_record(key, b"1e9") for key in (b"mtime", b"atime", b"ctime")))),
        ("one time alone", pax(pax_record(b"mtime", b"1"))),
        ("a sparse version of the future", pax(pax_record(b"GNU.sparse.major", b"2"))),
        ("sparse keys without a version", pax(pax_record(b"GNU.sparse.realsize", b"2"))),
        ("more records than allowed", pax(b"", size=(1 << 20) + 1)),
        ("records twice", pax(b"")[:512] + pax(b"")),
        ("a global header", SOUND.replace(b"x\0", b"g\0", 1)),
        ("an old GNU sparse header", encode(TarHeader(b"f", b"S", times=TIMES))),
        ("a volume label", encode(TarHeader(b"f", b"V"))),
        ("a directory with a size", encode(TarHeader(b"f/", DIRTYPE, size=5, times=TIMES))),
        ("old tar", bytes(257) + b"ustar  \0" + bytes(247)),
        ("no tar at all", b"\x7fELF" + bytes(508)),
    ],
)
def test_refused(what: str, raw: bytes):
    with pytest.raises(Ext4Error):
        parse(raw)


RECORD_KEYS = st.sampled_from([b"mtime", b"path", b"SCHILY.xattr.user.x", b"", b"a b"])


@given(
    st.lists(st.tuples(RECORD_KEYS, st.binary(max_size=40)), max_size=5, unique_by=lambda pair: pair[0]),
    st.integers(0, 400),
    st.sampled_from([b"", b"\n", b"0", b"=", b" ", b"\r"]),
)
def test_records_by_lines_are_records_one_by_one(records: list[tuple[bytes, bytes]], at: int, put: bytes):
    """Sound ones, and such as have a byte more or another one somewhere: the short way is never another way."""
    sound = b"".join(pax_record(key, value) for key, value in records)
    assert parse_records(sound, "these") == dict(records)
    for data in (sound[:at] + put + sound[at:], sound[:at] + put + sound[at + 1 :]):
        assert parsed(parse_records, data) == parsed(framing._parse_records, data)


@given(st.binary(max_size=40))
def test_records_of_any_bytes(data: bytes):
    assert parsed(parse_records, data) == parsed(framing._parse_records, data)


def parsed(parse: Callable[[bytes, str], dict[bytes, bytes]], data: bytes) -> dict[bytes, bytes] | None:
    """None where they are refused."""
    try:
        return parse(data, "these")
    except AlteredArchiveError:
        return None


@given(st.integers(-(10**21) + 1, 10**21 - 1))
def test_times_there_and_back(time_ns: int):
    """In the form of pax: POSIX.1-2001, decimal seconds; whatever its length."""
    text = pax_time(time_ns)
    assert Decimal(text.decode()) * 10**9 == time_ns
    assert not re.search(rb"\.[0-9]*0\Z|\.\Z", text)
    assert pax_reader._time(text) == time_ns


@given(st.tuples(*[st.integers(-(10**18), 10**20) | st.integers(10**18, 10**19)] * 3))
def test_three_times_are_those_of_each(times: tuple[int, int, int]):
    keys = (b"mtime", b"atime", b"ctime")
    expected = b"".join(pax_record(key, pax_time(time)) for key, time in zip(keys, times, strict=True))
    assert framing.time_records(*times) == expected


@given(st.text("0123456789.-+_ ", max_size=24))
def test_what_is_no_time(text: str):
    match = re.fullmatch(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?", text)
    if match is None:
        with pytest.raises(AlteredArchiveError):
            pax_reader._time(text.encode())
    else:
        assert pax_reader._time(text.encode()) == int(Decimal(text) * 10**9)
