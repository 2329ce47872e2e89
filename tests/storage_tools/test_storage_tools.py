"""Real programs on an ext4 disk: they verify what they read; afterwards e2fsck finds nothing."""

import pytest

from tests.conftest import need
from tests.storage_tools import scripts


@pytest.mark.patience(120)
def test_fio_verifies_what_it_wrote(ext4):
    """Every engine, also direct and asynchronous."""
    need("fio", "fio")
    fs = ext4(size="64M", model="ssd")
    for job in scripts.FIO_JOBS:
        fs.sh(scripts.fio(job, "256k"))
    fs.done()


@pytest.mark.patience(120)
def test_git_repository(ext4):
    """A hundred files (two thousand in `make conformance`): commits, gc, fsck, clone."""
    need("git", "git")
    fs = ext4(size="64M", model="ssd")
    fs.sh(scripts.git(100))
    fs.done()


@pytest.mark.patience(120)
def test_tar_and_back(ext4):
    """A part of Python's library (all of it in `make conformance`)."""
    fs = ext4(size="64M", model="ssd")
    fs.sh(scripts.tar("/usr/lib/python3.11/json"))
    fs.sh(scripts.tar("/usr/lib/python3.11/email"))
    fs.done()


@pytest.mark.patience(180)
def test_stress_ng_verifies_files(ext4):
    """A few operations of each stressor."""
    need("stress-ng", "stress-ng")
    fs = ext4(size="64M", model="ssd")
    for name, options in scripts.STRESSORS.items():
        fs.sh(scripts.stress(name, options))
    fs.done()


def test_e2fsprogs_inside(ext4):
    """They read the device of a mounted file system, change one that is not, and what they say holds."""
    fs = ext4(size="64M")
    fs.sh("cd /mnt; seq 1000 > f; mkdir d; cp f d/g; sync")
    assert "needs_recovery" in fs.sh("dumpe2fs -h /dev/sda 2>/dev/null | grep features")
    fs.sh("dumpe2fs /dev/sda > /tmp/all 2>&1; grep -q BLOCK_UNINIT /tmp/all")
    assert "Size: 3893" in fs.sh("debugfs -R 'stat /f' /dev/sda 2>&1")
    assert "Nothing to do" in fs.sh("resize2fs /dev/sda 2>&1")
    assert "shrinking not supported" in fs.run("resize2fs /dev/sda 40M").stderr.decode()
    assert fs.sh("tune2fs -L hello /dev/sda > /dev/null; e2label /dev/sda") == "hello\n"
    # What others read of the device must not be taken for bitmaps that were never written.
    assert "trimmed" in fs.sh("fstrim -v /mnt; seq 300000 > /mnt/big; rm /mnt/big; sync")
    assert "EXT4-fs error" not in fs.dmesg()
    fs.umount()
    fs.sh("e2fsck -fy /dev/sda > /tmp/e2fsck 2>&1; tune2fs -c 7 -m 3 /dev/sda; resize2fs /dev/sda 40M; e2fsck -fn /dev/sda")
    fs.mount()
    assert fs.sh("df --output=size -BM /mnt | tail -1; cmp /mnt/f /mnt/d/g").split() == ["34M"]
    assert "/mnt/f: 1 extent found" in fs.sh("filefrag -v /mnt/f")
    fs.done()


def test_resizing_a_mounted_file_system_is_refused(ext4):
    """Growing needs EXT4_IOC_RESIZE_FS, which is not here: an error, and nothing has changed."""
    fs = ext4(size="64M", mount=None)
    fs.sh("resize2fs -f /dev/sda 40M 2>/dev/null")
    fs.mount()
    grown = fs.run("resize2fs /dev/sda")
    assert grown.status == 1 and b"resize" in grown.stderr.lower()
    assert fs.sh("df --output=size -BM /mnt | tail -1").strip() == "34M"
    fs.done()


def test_loop_devices_and_block_listings(ext4):
    """losetup, mount -o loop, blkid, lsblk, findmnt."""
    fs = ext4("-t ext4 -L tools", size="64M")
    assert 'LABEL="tools"' in fs.sh("blkid /dev/sda") and fs.sh("blkid -o value -s TYPE /dev/sda") == "ext4\n"
    fs.sh("truncate -s 8M /mnt/img; mke2fs -q -t ext4 /mnt/img; mkdir /tmp/l")
    assert fs.sh("losetup -f --show /mnt/img; losetup -a | cut -d: -f1,3") == "/dev/loop0\n/dev/loop0:12 (/mnt/img)\n"
    assert [line.split() for line in fs.sh("lsblk -o NAME,TYPE,SIZE,MOUNTPOINT").splitlines()] == [
        ["NAME", "TYPE", "SIZE", "MOUNTPOINT"], ["loop0", "loop", "8M"], ["sda", "disk", "64M", "/mnt"]]
    fs.sh("mount /dev/loop0 /tmp/l; seq 1000 > /tmp/l/f; umount /tmp/l; losetup -d /dev/loop0; test -z \"$(losetup -a)\"")
    fs.sh("mount -o loop /mnt/img /tmp/l; seq 1000 | cmp - /tmp/l/f; umount /tmp/l; test -z \"$(losetup -a)\"; e2fsck -fn /mnt/img")
    assert fs.sh("findmnt -n -o SOURCE,FSTYPE /mnt").split() == ["/dev/sda", "ext4"]
    fs.done()
