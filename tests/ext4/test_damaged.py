"""Damaged images: a refused mount or an error, never an oops, never an endless loop. GLASSKERNEL_FUZZ_IMAGES=500 for more."""
import os
import shutil
import subprocess

import pytest

from glasskernel.init.command import KernelStopped
from tests.ext4.conftest import debugfs
from tests.ext4.mutate import FORMATS, WALK, make_images, mutate


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("seed", range(int(os.environ.get("GLASSKERNEL_FUZZ_IMAGES", "24"))))
def test_no_damage_breaks_the_kernel(ext4, good, tmp_path, seed):
    which = seed % len(FORMATS)
    path = tmp_path / "damaged.img"
    shutil.copy(good[which], path)
    what = mutate(path, seed)
    fs = ext4(mount=None, path=path, cmdline="oops=panic")
    try:
        fs.run(WALK % FORMATS[which].split()[1])
    except KernelStopped as stopped:
        raise AssertionError((FORMATS[which], what, fs.kernel.oopses)) from stopped
    assert not fs.kernel.oopses, (FORMATS[which], what, fs.kernel.oopses)


def test_commits_without_a_wait_and_ordered_data_exclude_each_other(ext4):
    fs = ext4(mount=None)
    assert fs.run("mkdir -p /mnt; mount -t ext4 -o journal_async_commit /dev/sda /mnt").status != 0
    assert "EXT4-fs (sda): can't mount with journal_async_commit in data=ordered mode" in fs.dmesg()
    fs.mount("journal_async_commit,data=writeback")
    fs.done()


def test_an_error_that_the_journal_remembers_is_told_once(ext4, image):
    """jbd2 keeps -errno in its super block; the mount moves it to the file system's state and clears it on the disk."""
    path = image("-t ext4 -b 1024 -O ^metadata_csum")
    block = next(int(line) for line in debugfs(path, "bmap <8> 0").splitlines() if line.isdigit())
    position = block * 1024 + 32                  # s_errno of the journal's super block
    with path.open("r+b") as f:
        f.seek(position)
        f.write((-5).to_bytes(4, "big", signed=True))
    fs = ext4(path=path)
    log = fs.dmesg()
    assert "Filesystem error recorded from previous mount: IO failure" in log
    assert "Marking fs in need of filesystem check." in log
    fs.umount()
    with path.open("rb") as f:
        f.seek(position)
        assert f.read(4) == bytes(4)
    assert "with errors" in subprocess.run(["dumpe2fs", "-h", str(path)], capture_output=True, text=True).stdout
