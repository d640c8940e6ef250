"""Commands on a device that somebody writes to: refused, or told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext4img.cli.main import main
from tools import live_trials
from tools.loop_mount import loop_mounted, run

pytestmark = pytest.mark.kernel


def test_a_mounted_image(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    """What is read, refused, and recorded; and that other commands end with 0 and one warning for each holder."""

    def ext4img(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    image, archive = tmp_path / "a.img", tmp_path / "a.tar"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-F", image)
    with loop_mounted(image, "rw") as mount:
        for refused in (
            ["backup", image, archive],
            ["copy", image, tmp_path / "b.img"],
            ["extract", image, "/", "out"],
        ):
            code, _, err = ext4img(*refused)
            assert code == 8
            assert err.startswith(f"ext4img {refused[0]}: {image}: in use: loop device ")
            assert f"; mounted on {mount} (ext4) (read-write)\n  hint: " in err
            assert "--live" in err
        code, out, err = ext4img("ls", image)
        assert (code, out) == (0, "lost+found\n")
        assert err.count("warning: in use, so that what is read may be a mixture of old and new: ") == 2
        for command in (["ls", image, "--checks", "report"], ["check", image]):
            assert ext4img(*command)[0] == 0  # it is no damage
        code, _, err = ext4img("backup", image, archive, "--live")
        assert code == 1
        assert f"mounted on {mount}" in err
    for command in (["verify", archive], ["list", archive, "--info"], ["restore", archive, tmp_path / "out"]):
        code, _, err = ext4img(*command)
        assert (code, "others could write to the image (device, mount)" in err) == (1, True)
    assert ext4img("list", archive)[0] == 0
    assert "Live:     others could write to the image: device, mount\n" in ext4img("list", archive, "--info")[1]
    code, _, err = ext4img("backup", image, tmp_path / "next.tar", "--since", archive)
    assert (code, f"{archive}: warning: it may be a mixture of old and new" in err) == (1, True)


@pytest.mark.parametrize("kind", live_trials.KINDS)
def test_a_random_writer(kind: str, tmp_path: Path):
    """One of each of `python -m tools.live_trials`."""
    code, said = live_trials.one_round(kind, live=True, of_file=False, seed=1, scratch=tmp_path)
    assert live_trials.is_right(kind, code, said), (code, said)
