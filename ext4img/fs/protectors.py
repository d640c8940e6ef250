"""The protectors of an image's policies: what its key metadata says without any secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ext4img.crypto.policy import Policy
from ext4img.errors import CorruptionError, Ext4Error
from ext4img.fs.image_metadata import ImageMetadata
from ext4img.fs.policies import PolicyUse
from ext4img.fs.protocol import FileTree
from ext4img.unlocking.fscrypt_metadata import (
    HashingCosts,
    ProtectorSource,
    parse_link,
    parse_policy,
    parse_protector,
)
from ext4img.unlocking.homed import is_slot
from ext4img.unlocking.metadata_dirs import MetadataChain, MetadataPlace

HOMED_KIND = "systemd-homed password"


@dataclass(frozen=True, slots=True)
class Protector:
    """One way to open a policy: a passphrase or key that someone holds.

    `kind` is "custom passphrase", "login passphrase", "raw key" or "systemd-homed password", and
    empty if it cannot be known. `name` is the user's text, unsafe for a terminal; `uid` is the owner of
    a login passphrase, `costs` what a passphrase's hash costs. `where` is the metadata file, or the
    inode whose attribute it is. `problem` says why it cannot be used: damaged, missing, or on another
    file system.
    """

    descriptor: str
    kind: str
    name: str
    uid: int | None
    where: str
    costs: HashingCosts | None = None
    problem: str = ""


def protectors_of(
    fs: FileTree, used: Mapping[Policy, PolicyUse], places: Iterable[MetadataPlace]
) -> dict[Policy, tuple[Protector, ...]]:
    """See `FileSystem.protectors`; `used` are the policies in use."""
    chain = MetadataChain([ImageMetadata(fs), *places])
    return {policy: (*_fscrypt(policy, chain), *_homed(fs, use.homes)) for policy, use in used.items()}


def _fscrypt(policy: Policy, chain: MetadataChain) -> list[Protector]:
    name = policy.key_id_hex
    where = f".fscrypt/policies/{name}"
    try:
        file = chain.find("policies", name)
        if file is None:
            return []
        where = file.where
        data = parse_policy(file.data, where)
        if data.key_descriptor != name:
            raise CorruptionError(f"{where}: the file holds the policy of key {data.key_descriptor}")
    except Ext4Error as error:
        return [Protector("", "", "", None, where, problem=str(error))]
    return [_protector(descriptor, chain) for descriptor in dict.fromkeys(s.protector_descriptor for s in data.slots)]


def _protector(descriptor: str, chain: MetadataChain) -> Protector:
    where = f".fscrypt/protectors/{descriptor}"
    try:
        file = chain.find("protectors", descriptor)
        if file is None:
            link = chain.find("protectors", f"{descriptor}.link")
            if link is None:
                return Protector(descriptor, "", "", None, where, problem="there is no such protector")
            place = parse_link(link.data, link.where).describe()
            return Protector(descriptor, "", "", None, link.where, problem=f"it is on {place}")
        where = file.where
        data = parse_protector(file.data, where)
        if data.descriptor != descriptor:
            raise CorruptionError(f"{where}: the file holds protector {data.descriptor}")
    except Ext4Error as error:
        return Protector(descriptor, "", "", None, where, problem=str(error))
    uid = data.uid if data.source is ProtectorSource.PAM_PASSPHRASE else None
    return Protector(descriptor, data.source.words, data.name, uid, where, data.costs)


def _homed(fs: FileTree, homes: Iterable[int]) -> list[Protector]:
    found: list[Protector] = []
    for number in homes:
        try:
            names = fs.volume.xattrs(fs.volume.inode(number))
        except Ext4Error as error:
            found.append(Protector("", HOMED_KIND, "", None, f"inode {number}", problem=str(error)))
            continue
        slots = sorted(name for name in names if is_slot(name))
        found += [Protector("", HOMED_KIND, name, None, f"inode {number}") for name in slots]
    return found
