"""Metadata that an enemy wrote: only the library's errors come out, soon, and no name leads astray."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import (
    CorruptionError,
    Ext4Error,
    KeyFormatError,
    LimitError,
    NoKeyError,
    NotFoundError,
    UnsupportedFeatureError,
    WrongKeyError,
)
from ext4img.unlocking import e4crypt, homed
from ext4img.unlocking.fscrypt_kdf import NO_LIMITS, CostLimits, hash_passphrase, unwrap
from ext4img.unlocking.fscrypt_metadata import (
    HashingCosts,
    ProtectorData,
    ProtectorSource,
    WrappedKey,
    parse_link,
    parse_policy,
    parse_protector,
)
from ext4img.unlocking.fscrypt_policy import open_policy
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES, Message
from ext4img.unlocking.secrets import Secrets
from tests.unlocking.test_vectors import VECTORS, reader

TREE = VECTORS["fscrypt"][0]
FILES = [bytes.fromhex(text) for kind in ("protectors", "policies") for text in TREE[kind].values()]
POLICY, PROTECTOR = "420e2390fa4e6008a607099711e41690", "42b7ea7d2f504277"
RIGHT = Secrets(passphrases=(b"correct horse",))


# -- a writer of messages, the enemy's tool ---------------------------------------------------------------------


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def encode(fields: list[tuple[int, Any]]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = encode(value) if isinstance(value, list) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def wrapped(size: int = 32) -> list[tuple[int, Any]]:
    return [(1, bytes(16)), (2, bytes(size)), (3, bytes(32))]


def protector(**changes: Any) -> bytes:
    """A valid protector file, but for `changes`: field name → value, None to leave it out."""
    costs = {"time": 1, "memory": 8, "parallelism": 1, "truncation_fixed": 1}
    costs.update({name: changes.pop(name) for name in list(changes) if name in costs})
    fields: dict[str, tuple[int, Any]] = {
        "protector_descriptor": (1, b"0123456789abcdef"),
        "source": (2, 2),
        "name": (3, b"x"),
        "costs": (
            4,
            [(2, costs["time"]), (3, costs["memory"]), (4, costs["parallelism"]), (5, costs["truncation_fixed"])],
        ),
        "salt": (5, bytes(16)),
        "uid": (6, 0),
        "wrapped_key": (7, wrapped()),
    }
    fields.update({name: (fields[name][0], value) for name, value in changes.items()})
    return encode([(number, value) for number, value in fields.values() if value is not None])


def policy(**changes: Any) -> bytes:
    options = {"padding": 32, "contents": 1, "filenames": 4, "policy_version": 2}
    options.update({name: changes.pop(name) for name in list(changes) if name in options})
    slot = {"descriptor": b"0123456789abcdef", "slot_key": wrapped(64)}
    slot.update({name: changes.pop(name) for name in list(changes) if name in slot})
    fields: dict[str, tuple[int, Any]] = {
        "key_descriptor": (1, b"0123456789abcdef" * 2),
        "options": (2, [(n, v) for n, v in enumerate(options.values(), 1) if v is not None]),
        "slots": (3, [(n, v) for n, v in enumerate(slot.values(), 1) if v is not None]),
    }
    fields.update({name: (fields[name][0], value) for name, value in changes.items()})
    return encode([(number, value) for number, value in fields.values() if value is not None])


# -- the wire format --------------------------------------------------------------------------------------------


def test_wire_format_examples_of_the_documentation():
    # protobuf.dev, "Encoding": Test1 {a: 150}, Test2 {b: "testing"}, Test3 {c: {a: 150}}.
    assert Message(bytes.fromhex("089601"), "Test1", "f").integer(1, "a") == 150
    assert Message(bytes.fromhex("120774657374696e67"), "Test2", "f").text(2, "b") == "testing"
    assert Message(bytes.fromhex("1a03089601"), "Test3", "f").message(3, "c", "Test1").integer(1, "a") == 150
    # The same page: -2 as int64.
    assert Message(bytes.fromhex("08feffffffffffffffff01"), "Test1", "f").integer(1, "a") == -2


def test_unknown_fields_are_skipped_and_the_last_value_counts():
    extra = varint(90 << 3 | 1) + bytes(8) + varint(91 << 3 | 5) + bytes(4) + encode([(92, 5), (93, b"later")])
    assert parse_protector(extra + protector(name=b"y") + extra).name == "y"
    assert parse_protector(protector() + encode([(3, b"last")])).name == "last"
    # A sub-message in two parts is one message.
    split = protector(costs=None) + encode([(4, [(2, 3), (3, 64)])]) + encode([(4, [(3, 128), (4, 2), (5, 1)])])
    assert parse_protector(split).costs == HashingCosts(3, 128, 2, True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08" + b"\xff" * 9 + b"\x7f",  # above 64 bits
        b"\x08" + b"\x80" * 20,  # never ends
        b"\x0a\x05abc",  # runs past the end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2^64 - 1
        b"\x00\x00",  # field number 0
        b"\x0b\x0c",  # groups
        b"\x0e",  # wire type 6
        b"\x09\x00",  # 64 bits cut short
        b"\x82\x80\x80\x80\x80\x01\x00",  # a field number above 2^29
    ],
)
def test_broken_messages(data):
    with pytest.raises(CorruptionError, match="here: protobuf"):
        Message(data, "Test", "here")


def test_size_bound():
    for parse in (parse_protector, parse_policy, parse_link):
        with pytest.raises(LimitError):
            parse(bytes(MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=400))
def test_any_bytes(data):
    for parse in (parse_protector, parse_policy, parse_link):
        with contextlib.suppress(Ext4Error):
            parse(data)


@given(st.sampled_from(FILES), st.data())
def test_damaged_files(original, data):
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for parse in (parse_protector, parse_policy):
        for candidate in (bytes(damaged), bytes(damaged[:cut])):
            with contextlib.suppress(Ext4Error):
                parse(candidate)


@given(st.binary(max_size=300))
def test_any_slot_and_salt(data):
    for call in (
        lambda: homed.parse_slot("trusted.fscrypt_slot0", data),
        lambda: e4crypt.parse_salt(data.decode("utf-8", "surrogateescape")),
    ):
        with contextlib.suppress(Ext4Error):
            call()


# -- validity rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"protector_descriptor": b"0123456789ABCDEF"},
        {"protector_descriptor": b"../../../etc/pas"},
        {"protector_descriptor": b"0123456789abcde\n"},
        {"protector_descriptor": b"0123456789abcdef0"},
        {"protector_descriptor": None},
        {"protector_descriptor": "٠١٢٣٤٥٦٧".encode()},
        {"source": 0},
        {"source": None},
        {"source": b"2"},
        {"source": 1, "uid": -1},
        {"costs": None},
        {"costs": 3},
        {"salt": bytes(15)},
        {"salt": None},
        {"wrapped_key": None},
        {"wrapped_key": wrapped(64)},
        {"wrapped_key": [(1, bytes(15)), (2, bytes(32)), (3, bytes(32))]},
        {"wrapped_key": [(1, bytes(16)), (2, bytes(32)), (3, bytes(20))]},
        {"time": 0},
        {"time": -1},
        {"time": 1 << 32},
        {"memory": 7},
        {"memory": 1 << 32},
        {"memory": -8},
        {"parallelism": 0},
        {"parallelism": -1, "truncation_fixed": 0, "memory": 8192},
        {"parallelism": 256, "truncation_fixed": 0, "memory": 8192},
        {"parallelism": 257, "memory": 8192},
        {"parallelism": 2, "memory": 15},
    ],
)
def test_invalid_protectors(changes):
    with pytest.raises(CorruptionError, match="some file: "):
        parse_protector(protector(**changes), "some file")


def test_valid_protectors():
    assert parse_protector(protector()).costs == HashingCosts(1, 8, 1, True)
    raw = parse_protector(protector(source=3, costs=None, salt=None))
    assert (raw.source, raw.costs, raw.salt) == (ProtectorSource.RAW_KEY, None, b"")
    # Early versions cut the parallelism to 8 bits, and so wrote what only they could read.
    costs = parse_protector(protector(parallelism=257, truncation_fixed=0)).costs
    assert costs is not None
    assert (costs.parallelism, costs.lanes) == (257, 1)
    assert parse_protector(protector(name=b"\xff\x1b[2J")).describe().isprintable()
    with pytest.raises(UnsupportedFeatureError) as caught:
        parse_protector(protector(source=4))
    assert caught.value.names == ("protector source 4",)


@pytest.mark.parametrize(
    "changes",
    [
        {"key_descriptor": b"0123456789abcdef"},
        {"key_descriptor": b"0123456789abcdef" * 2, "policy_version": 1},
        {"key_descriptor": b"0123456789abcdef" * 2, "policy_version": None},
        {"options": None},
        {"padding": 0},
        {"padding": 5},
        {"padding": 64},
        {"contents": 0},
        {"filenames": 256},
        {"filenames": -1},
        {"policy_version": 3},
        {"descriptor": b"/../../../../etc"},
        {"descriptor": None},
        {"slot_key": None},
        {"slot_key": wrapped(32)},
        {"slots": 1},
    ],
)
def test_invalid_policies(changes):
    with pytest.raises(CorruptionError, match="some file: "):
        parse_policy(policy(**changes), "some file")


def test_valid_policies():
    assert parse_policy(policy()).options.policy_version == 2
    old = parse_policy(policy(key_descriptor=b"0123456789abcdef", policy_version=None))
    assert old.options.policy_version == 1
    assert parse_policy(policy(slots=None)).slots == ()


@pytest.mark.parametrize(
    ("text", "uuid", "path"),
    [
        (b"UUID=3a6d9a76-47f0-4f13-81bf-3332fbe984fb\nPATH=/\n", "3a6d9a76-47f0-4f13-81bf-3332fbe984fb", "/"),
        (b"PATH=/\n", None, "/"),
        (b"UUID=x", "x", None),
        (b" UUID = x \r\n# nonsense\nLABEL=root\n\nPATH=/a=b c\n", "x", "/a=b c"),
        (b"UUID=\nPATH=/x\xff\x85y\n", None, "/x\udcff\udc85y"),
    ],
)
def test_links(text, uuid, path):
    link = parse_link(text)
    assert (link.uuid, link.path) == (uuid, path)
    assert link.describe().isprintable()


@pytest.mark.parametrize("text", [b"", b"\n", b"UUID=\nPATH= \n", b"UUID", b"\0\0\0"])
def test_links_to_nowhere(text):
    with pytest.raises(CorruptionError, match="neither"):
        parse_link(text)


# -- costs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "costs",
    [
        HashingCosts(1, (1 << 32) - 1, 1, True),
        HashingCosts((1 << 32) - 1, 8, 1, True),
        HashingCosts(1, (1 << 20) + 1, 1, True),
        HashingCosts(9, 1 << 20, 4, True),
    ],
)
def test_hostile_costs_are_refused_at_once(costs):
    started = time.perf_counter()
    with pytest.raises(LimitError, match="above the limit"):
        hash_passphrase(b"x", bytes(16), costs)
    assert time.perf_counter() - started < 1


def test_limits_can_be_changed():
    costs = HashingCosts(2, 1024, 1, True)
    for tight in (CostLimits(memory_kib=1023), CostLimits(work_kib=2047), CostLimits(total_work_kib=2047)):
        with pytest.raises(LimitError):
            hash_passphrase(b"x", bytes(16), costs, tight)
    exact = CostLimits(1024, 2048, 2048)
    assert hash_passphrase(b"x", bytes(16), costs, exact) == hash_passphrase(b"x", bytes(16), costs, NO_LIMITS)


def test_memory_that_cannot_be_had(monkeypatch):
    def fail(self, key_material):
        raise MemoryError

    # Not in earnest: a kernel that overcommits would grant the memory, and kill somebody for it.
    monkeypatch.setattr("cryptography.hazmat.primitives.kdf.argon2.Argon2id.derive", fail, raising=True)
    with pytest.raises(LimitError, match="more than is available"):
        hash_passphrase(b"x", bytes(16), HashingCosts(1, 8, 1, True))


def test_total_work_is_bounded_and_each_hash_is_run_once(monkeypatch):
    hashed = []

    def count(passphrase, salt, costs, limits):
        hashed.append(passphrase)
        return bytes(32)

    monkeypatch.setattr("ext4img.unlocking.protector_keys.hash_passphrase", count)
    one, other = (parse_protector(protector(salt=bytes([n]) * 16, memory=1000)) for n in (1, 2))
    keys = ProtectorKeys(CostLimits(total_work_kib=3000))
    for _ in range(5):
        with pytest.raises(WrongKeyError):
            keys.open(one, Secrets(passphrases=(b"a", b"b")))
    with pytest.raises(WrongKeyError):
        keys.open(other, Secrets(passphrases=(b"a",)))
    assert hashed == [b"a", b"b", b"a"]
    with pytest.raises(LimitError, match="total work"):
        keys.open(other, Secrets(passphrases=(b"c",)))


def test_one_hash_for_two_policies(monkeypatch):
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return hash_passphrase(*arguments)

    monkeypatch.setattr("ext4img.unlocking.protector_keys.hash_passphrase", count)
    keys = ProtectorKeys()
    for policy_id in (POLICY, "64f8433a2e0c37b7"):
        open_policy(bytes.fromhex(policy_id), reader(TREE["policies"]), reader(TREE["protectors"]), RIGHT, keys)
    assert len(calls) == 1


# -- opening ----------------------------------------------------------------------------------------------------


def attempt(policies: dict[str, Any], protectors: dict[str, Any], secrets: Secrets = RIGHT, keys: Any = None) -> Any:
    return open_policy(bytes.fromhex(POLICY), policies.get, protectors.get, secrets, keys)


def genuine(kind: str, name: str) -> bytes:
    return bytes.fromhex(TREE[kind][name])


def slot_of(name: str) -> bytes:
    """The slot of a genuine policy with one slot, as a field."""
    data = genuine("policies", name)
    return data[data.index(b"\x1a\x8a\x01") :]


def test_a_policy_that_is_not_there():
    with pytest.raises(NotFoundError, match=POLICY):
        attempt({}, {})
    with pytest.raises(CorruptionError, match="8 or 16 bytes"):
        open_policy(b"123", dict.get, dict.get, RIGHT)  # type: ignore[arg-type]


def test_a_policy_under_a_wrong_name():
    with pytest.raises(CorruptionError, match="the file holds the policy of key 110890e1"):
        attempt({POLICY: genuine("policies", "110890e12fe22209ff28a66ff236d6b7")}, {})


def test_a_protector_under_a_wrong_name():
    policies = {POLICY: genuine("policies", POLICY)}
    with pytest.raises(CorruptionError, match="the file holds protector 23ffa917"):
        attempt(policies, {PROTECTOR: genuine("protectors", "23ffa9175762511c")})


def test_a_missing_protector():
    with pytest.raises(NotFoundError, match=f"protectors/{PROTECTOR}"):
        attempt({POLICY: genuine("policies", POLICY)}, {})


def test_nothing_given_that_could_open():
    with pytest.raises(NoKeyError, match="needs a passphrase"):
        attempt({POLICY: genuine("policies", POLICY)}, {PROTECTOR: genuine("protectors", PROTECTOR)}, Secrets())


def test_a_policy_without_protectors():
    bare = genuine("policies", POLICY).split(b"\x1a\x8a\x01")[0]
    with pytest.raises(CorruptionError, match="no protector protects it"):
        attempt({POLICY: bare}, {})


def test_a_slot_taken_from_another_policy_gives_no_key():
    head = genuine("policies", POLICY).split(b"\x1a\x8a\x01")[0]
    mixed = head + slot_of("64f8433a2e0c37b7")
    with pytest.raises(CorruptionError, match="gives the key of another policy"):
        attempt({POLICY: mixed}, {PROTECTOR: genuine("protectors", PROTECTOR)})


def test_a_slot_whose_mac_is_wrong_is_damage_not_a_wrong_passphrase():
    damaged = genuine("policies", POLICY)[:-1] + b"\0"
    with pytest.raises(CorruptionError, match="its key is not wrapped by"):
        attempt({POLICY: damaged}, {PROTECTOR: genuine("protectors", PROTECTOR)})


def test_a_sound_slot_opens_beside_bad_ones():
    """A slot without its protector, and one whose protector's hash is a bomb, do not stop the third."""
    bomb = protector(protector_descriptor=b"b" * 16, time=(1 << 32) - 1)
    bad = [(3, [(1, name * 16), (2, wrapped(64))]) for name in (b"a", b"b")]
    policies = {POLICY: genuine("policies", POLICY) + encode(bad)}
    protectors = {PROTECTOR: genuine("protectors", PROTECTOR), "b" * 16: bomb}
    opened = attempt(policies, protectors)
    assert opened.key.hex() == TREE["policy_keys"][POLICY]
    assert [type(problem) for problem in opened.problems] == [NotFoundError]
    with pytest.raises(LimitError) as caught:
        attempt(policies, protectors, Secrets(passphrases=(b"wrong",)))
    for told in ("aaaaaaaa", "wrong passphrase for protector 42b7", "above the limit"):
        assert told in str(caught.value)


def test_a_reader_that_fails_costs_one_slot_only():
    def read(name: str) -> bytes | None:
        if name == "a" * 16:
            raise CorruptionError("bad block")
        return genuine("protectors", name)

    policies = {POLICY: genuine("policies", POLICY) + encode([(3, [(1, b"a" * 16), (2, wrapped(64))])])}
    opened = open_policy(bytes.fromhex(POLICY), policies.get, read, RIGHT)
    assert [str(problem) for problem in opened.problems] == ["bad block"]


def test_unwrap_checks_before_it_decrypts():
    for wrapping_key in (bytes(32), b"K" * 32):
        with pytest.raises(WrongKeyError):
            unwrap(wrapping_key, WrappedKey(bytes(16), bytes(64), bytes(32)))


@given(st.lists(st.tuples(st.integers(1, 8), st.binary(max_size=80) | st.integers(0, 1 << 63)), max_size=8))
def test_hostile_policies_never_read_other_names(fields):
    """Whatever a policy says, only names of hexadecimal digits are asked for."""
    asked = []

    def read_protector(name: str) -> bytes | None:
        asked.append(name)
        return None

    data = genuine("policies", POLICY) + encode(fields)
    with pytest.raises(Ext4Error):
        open_policy(bytes.fromhex(POLICY), lambda _: data, read_protector, RIGHT)
    assert all(set(name.removesuffix(".link")) <= set("0123456789abcdef") for name in asked)


# -- secrets stay secret ----------------------------------------------------------------------------------------


def test_secrets_are_not_shown():
    opened = attempt({POLICY: genuine("policies", POLICY)}, {PROTECTOR: genuine("protectors", PROTECTOR)})
    assert opened.key.hex() not in repr(opened)
    assert repr(opened.key)[2:-1] not in repr(opened)
    assert repr(RIGHT) == "Secrets()"
    keys = ProtectorKeys()
    attempt({POLICY: genuine("policies", POLICY)}, {PROTECTOR: genuine("protectors", PROTECTOR)}, RIGHT, keys)
    assert repr(keys) == "<ProtectorKeys: 1 opened>"
    with pytest.raises(KeyFormatError, match="32 bytes, not 5"):
        Secrets(raw_keys=(b"12345",))


def test_metadata_objects_are_frozen_and_hashable():
    data = parse_protector(genuine("protectors", PROTECTOR))
    assert hash(data) == hash(parse_protector(genuine("protectors", PROTECTOR)))
    with pytest.raises(AttributeError):
        data.name = "other"  # type: ignore[misc]
    assert isinstance(data, ProtectorData)
