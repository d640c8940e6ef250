"""Archives that no writer of ours makes: members put in past it, with a manifest that fits them.

So what refuses them is the check that is meant, and not a digest.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.manifest_line import ChangeKey, Closing, ManifestLine, build_closing, build_line
from ext4img.archive.member_paths import BACKUP_PATH, MANIFEST_PATH, is_control
from ext4img.archive.pax_writer import encode
from ext4img.archive.tar_header import TarHeader, padding
from ext4img.structs.tar import DIRTYPE, LNKTYPE, REGTYPE, SYMTYPE
from tests.archive.synthetic import UUID

TIMES = (1_000_000_000_000_000_000,) * 3


class EnemyArchive:
    """Write members one by one, sound ones or not; then `bytes()`."""

    def __init__(self, info: BackupInfo | None = None) -> None:
        self.output = io.BytesIO()
        self.lines: list[ManifestLine] = []
        self.number = 100
        self.raw(TarHeader(BACKUP_PATH, REGTYPE), (info or BackupInfo(UUID, 4096)).to_json(), inode=0)

    def raw(
        self,
        header: TarHeader,
        data: bytes = b"",
        *,
        inode: int | None = None,
        header_bytes: bytes | None = None,
        change_key: ChangeKey | None = None,
        line: dict[str, Any] | None = None,
    ) -> None:
        """Add a member as given; `header_bytes` replaces its header's bytes, `line` fields of its manifest line."""
        size = len(data)
        header = header._replace(size=size)
        offset = self.output.tell()
        header_bytes = header_bytes if header_bytes is not None else encode(header)
        self.output.write(header_bytes + data + bytes(padding(len(data))))
        if change_key is None and not is_control(header.path):
            change_key = ChangeKey(0, len(data) if header.typeflag == REGTYPE else 0, TIMES[2], 0)
        digest = hashlib.sha256(header_bytes).hexdigest()
        facts: dict[str, Any] = {
            "path": header.path.removesuffix(b"/"),
            "inode": self.number if inode is None else inode,
            "data_size": size,
            "data_sha256": hashlib.sha256(data).hexdigest(),
            "header_sha256": digest,
            "header_offset": offset,
            "data_offset": offset + len(header_bytes),
            "change_key": change_key,
        }
        self.lines.append(ManifestLine(**{**facts, **(line or {})}))

    def add(self, path: bytes, typeflag: bytes = REGTYPE, data: bytes = b"", **facts: Any) -> None:
        """A member with the record that each must have."""
        self.number += 1
        inode = facts.pop("inode", self.number)
        links = facts.pop("links", 1)
        more = facts.pop("more", "")
        kind = f',"type":"{facts.pop("kind", "file")}"' if typeflag == LNKTYPE else ""
        record = f'{{"number":{inode},"generation":0,"flags":0,"links":{links}{kind}{more}}}'.encode()
        xattrs = {b"trusted.ext4img.inode": record, **facts.pop("xattrs", {})}
        line = facts.pop("line", None)
        header = TarHeader(path, typeflag, facts.pop("mode", 0o755), times=TIMES, xattrs=xattrs, **facts)
        self.raw(header, data, inode=inode, line=line)

    def root(self) -> EnemyArchive:
        """The root, as every sound archive has it first."""
        self.add(b"./", DIRTYPE, inode=2)
        return self

    def directory(self, path: bytes, **facts: Any) -> None:
        """A directory."""
        self.add(path + b"/", DIRTYPE, **facts)

    def symlink(self, path: bytes, target: bytes, **facts: Any) -> None:
        """A symbolic link."""
        self.add(path, SYMTYPE, linkpath=target, **facts)

    def link(self, path: bytes, target: bytes, **facts: Any) -> None:
        """A hard link."""
        self.add(path, LNKTYPE, linkpath=target, **facts)

    def bytes(self, end: bytes = bytes(1024)) -> bytes:
        """The archive with its manifest."""
        offset = self.output.tell()
        data = b"".join(map(build_line, self.lines))
        data += build_closing(Closing(len(self.lines), offset, hashlib.sha256(data).hexdigest(), 0))
        header_bytes = encode(TarHeader(MANIFEST_PATH, REGTYPE, size=len(data)))
        return self.output.getvalue() + header_bytes + data + bytes(padding(len(data))) + end
