"""Images on loop devices: mounting, and whether this machine can do it at all."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tools import kernel_ioctl

SBIN = "/usr/sbin:/sbin"


def run(*command: str | Path, stdin: bytes | None = None) -> bytes:
    """Standard output of a command; CalledProcessError with its stderr in the notes where it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, env=environment, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        error.add_note(done.stderr.decode(errors="replace"))
        raise error
    return done.stdout


@contextmanager
def loop_mounted(image: str | Path, options: str = "ro") -> Iterator[str]:
    """The path of a fresh directory on which `image` is mounted; unmounted and removed at the end.

    `options` are mount(8)'s. With "ro" the loop device is read-only too, so nothing can change the
    image; a dirty journal then makes the mount fail.
    """
    directory = tempfile.mkdtemp(prefix="ext4img-mount-")
    try:
        run("mount", "-o", f"loop,{options}", image, directory)
        try:
            yield directory
        finally:
            _unmount(directory)
    finally:
        os.rmdir(directory)


def _unmount(directory: str) -> None:
    for attempt in range(20):
        try:
            run("umount", directory)
            return
        except subprocess.CalledProcessError:
            # An encrypted file system can be busy for a moment after its key went.
            if attempt == 19:
                raise
            time.sleep(0.1)


def sync_mount(mount: str | Path) -> None:
    """Let the kernel write all that is dirty on one mount: sync(2) would also wait for every other disk."""
    run("sync", "-f", mount)


def replay_journal(image: Path) -> None:
    """Let the kernel replay the journal of `image`, which is changed."""
    with loop_mounted(image, "rw,noatime"):
        pass


@lru_cache(maxsize=1)
def kernel_cannot() -> str | None:
    """Why the tests that need the kernel can't run here; None where they can."""
    if os.geteuid() != 0:
        return "needs root for loop mounts"
    with tempfile.TemporaryDirectory(prefix="ext4img-probe-") as scratch:
        image = Path(scratch) / "probe.img"
        try:
            with image.open("wb") as file:
                file.truncate(1 << 20)
            run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "encrypt,^has_journal", image)
            with loop_mounted(image, "rw") as mount:
                name = kernel_ioctl.add_key(mount, bytes(range(64)), 2)
                directory = os.path.join(mount, "d")
                os.mkdir(directory)
                kernel_ioctl.set_policy(directory, name)
                Path(directory, "f").write_bytes(b"x")
        except (OSError, subprocess.CalledProcessError) as error:
            notes = getattr(error, "__notes__", [])
            return f"no loop mount of an encrypted ext4 here: {error} {' '.join(notes)}".strip()
    return None
