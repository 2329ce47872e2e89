"""Kernels with an ext4 disk. The host's e2fsprogs make the images and judge them."""
import subprocess

import pytest

from glasskernel import Share
from glasskernel.machine.disk import Disk
from tests.conftest import CACHE, need


class Ext4:
    """A kernel with a disk /dev/sda; sh() runs shell commands in it. done() unmounts, and e2fsck must find nothing."""

    def __init__(self, boot, path, mount, model="ideal", **options):
        self.path = path
        self.kernel = boot(disks=[Disk(str(path), model=model)], shares=[Share(str(CACHE), "/programs")], **options)
        self.mounted = False
        if mount is not None:
            self.mount(mount)

    def mount(self, options="", kind="ext4"):
        self.sh(f"mkdir -p /mnt && mount -t {kind} {'-o ' + options if options else ''} /dev/sda /mnt")
        self.mounted = True

    def run(self, script):
        return self.kernel.run(["/bin/bash", "-c", script], cwd="/")

    def sh(self, script):
        result = self.run(script)
        assert result.status == 0, (script, result.status, result.stdout, result.stderr)
        return result.stdout.decode(errors="surrogateescape")

    def dmesg(self):
        return self.sh("dmesg")

    def umount(self):
        if self.mounted:
            self.sh("umount /mnt")
            self.mounted = False

    def done(self):
        self.umount()
        assert fsck(self.path) == "", self.path


def fsck(path):
    """What e2fsck -fn complains about: "" is clean."""
    result = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, text=True)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def debugfs(path, *commands):
    result = subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", str(path)], input="\n".join(commands) + "\n",
                            capture_output=True, text=True)
    return result.stdout + result.stderr


@pytest.fixture
def image(tmp_path):
    """image("-t ext4 -b 1024", size="32M", root=dir) -> the path of a new image."""
    mke2fs = need("mke2fs", "e2fsprogs")
    count = iter(range(100))

    def make(options="-t ext4", size="32M", root=None):
        path = tmp_path / f"disk{next(count)}.img"
        command = [mke2fs, "-q", "-F", *options.split(), *(["-d", str(root)] if root else []), str(path), size]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return make


@pytest.fixture
def ext4(boot, image):
    """ext4(options of mke2fs, mount=options) -> Ext4, mounted on /mnt."""
    made = []

    def start(options="-t ext4", size="32M", mount="", root=None, path=None, **kernel_options):
        made.append(Ext4(boot, path or image(options, size, root), mount, **kernel_options))
        return made[-1]

    yield start
    for each in made:
        if each.mounted:
            each.umount()
