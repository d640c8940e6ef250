"""An archive, or an image itself → a new ext4 image, without any key."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ext4img.archive.input import ArchiveSource
from ext4img.archive.open_backup import BackupSource
from ext4img.errors import BuildError
from ext4img.fs.filesystem import FileSystem
from ext4img.progress import Progress

if TYPE_CHECKING:
    from ext4img.rebuilder.options import NewSize, NewUuid

ImagePath = str | os.PathLike[str]
Rebuildable = FileSystem | BackupSource | ArchiveSource
OnlyPath = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a new image holds. `made` counts by type ("file", "dir", …, and "link" for further names).

    `left_out` counts entries that could not be read or that ext4 can't hold, `incomplete` files of
    which the source did not give all: zeros are read there. `problems` say what and where, at most
    10,000, times outside ext4's range among them; what the view of a damaged image notes is in its
    own `problems`.
    """

    size: int
    """Of the image in bytes."""
    data_bytes: int
    """In blocks of files."""
    made: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    incomplete: int = 0
    problems: tuple[BuildError, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that the archive or the view gave is there, in full."""
        return not (self.left_out or self.incomplete or self.problems)


def rebuild(
    source: Rebuildable,
    image: ImagePath,
    *,
    size: NewSize = "auto",
    spare_percent: float = 10.0,
    uuid: NewUuid = "keep",
    label: str | None = None,
    features: Sequence[str] = (),
    block_size: int | None = None,
    keep_inodes: bool = False,
    only: Sequence[OnlyPath] = (),
    salvage: bool | None = None,
    bases: Sequence[ArchiveSource] = (),
    overwrite: bool = False,
    allow_device: bool = False,
    progress: Progress | None = None,
) -> RebuildReport:
    """Make a new ext4 image of a backup, or of another image, without any key.

    A backup is an archive, a directory store, or a tree that `tar --xattrs` extracted; what an
    incremental archive builds on is looked for among `bases`, then in its own directory.

    Encrypted files, names and link targets go over as ciphertext with all that decryption needs:
    whoever has a key opens them there as before. Inode numbers are kept where ciphertext hangs on
    them, or all with `keep_inodes`. `size` in bytes, or "auto" for as little as leaves
    `spare_percent` of blocks and inodes free (or a whole block device); `block_size` is the source's
    if not given; `features` are names as mke2fs takes them, "^" before those refused. `only` names
    paths, in an archive as they are there.

    With `salvage` what ext4 can't hold is left out and reported; by default it is an error, unless
    the source is a view that does not check strictly. Everything is planned before the first byte
    is written; the image appears under its name when it is whole, and a block device is written to
    only with `allow_device`. `progress` is called with bytes done and in all: first of the archive,
    then of the image.

    BuildError with the path and policy that are to blame where something does not fit, or where
    ciphertext would become unreadable: another UUID under IV_INO_LBLK policies, another block size
    under policies whose data units are blocks. AlteredArchiveError and its kin as for every reader
    of archives: then there is no image. NotFoundError for a path in `only` that is not there.
    """
    from ext4img.rebuilder.rebuild_plan import Rebuild  # with all that builds, which reading does without

    if not overwrite and not is_device(image) and os.path.lexists(image):
        raise BuildError(f"{os.fspath(image)}: is there already")
    with Rebuild(
        source,
        size=size_for(image, size),
        spare_percent=spare_percent,
        uuid=uuid,
        label=label,
        features=features,
        block_size=block_size,
        keep_inodes=keep_inodes,
        only=only,
        salvage=salvage,
        bases=bases,
        progress=progress,
    ) as planned:
        return planned.write(image, overwrite=overwrite, allow_device=allow_device)


def size_for(image: ImagePath, size: NewSize) -> NewSize:
    """The size asked for; of a block device all of it, if that was not said."""
    if size != "auto" or not is_device(image):
        return size
    try:
        with open(image, "rb") as device:
            return device.seek(0, os.SEEK_END)
    except OSError as error:
        raise BuildError(f"{os.fspath(image)}: {error.strerror}") from error


def is_device(image: ImagePath) -> bool:
    """Whether there is a block device of this name."""
    try:
        return stat.S_ISBLK(os.stat(image).st_mode)
    except OSError:
        return False
