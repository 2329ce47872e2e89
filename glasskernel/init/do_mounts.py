"""The root file system: the host's directories underneath, everything that is written on top in memory.

Linux: init/do_mounts.c (5.3). Same: the real root is mounted on a directory of rootfs, moved over "/", and chroot'ed
into. Differs: what init scripts mount (/proc, /sys, /dev ...) is mounted here too.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from glasskernel.fs.hostfs.hostfs_kern import hostfs_share
from glasskernel.fs.hostfs.policy import EVERYTHING, SYSTEM_ROOT
from glasskernel.fs.namei import do_mkdirat_kernel
from glasskernel.fs.namespace import MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, do_mount
from glasskernel.fs.open import chdir_kernel, chroot_kernel
from glasskernel.fs.pnode import MS_SHARED
from glasskernel.lib.errno import EEXIST, KernelError
from glasskernel.lib.types import notrace
from glasskernel.machine.hostdir import HostDir

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

# (type, source, directory, flags, options, mode of the directory)
_MOUNTS = (
    (b"proc", b"proc", b"/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"", 0o555),
    (b"sysfs", b"sysfs", b"/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"", 0o555),
    (b"debugfs", b"debugfs", b"/sys/kernel/debug", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"", 0o700),
    (b"tracefs", b"tracefs", b"/sys/kernel/tracing", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"", 0o700),
    (b"devtmpfs", b"devtmpfs", b"/dev", MS_NOSUID, b"", 0o755),
    (b"devpts", b"devpts", b"/dev/pts", MS_NOSUID | MS_NOEXEC, b"gid=5,mode=620,ptmxmode=000", 0o755),
    (b"tmpfs", b"tmpfs", b"/dev/shm", MS_NOSUID | MS_NODEV, b"", 0o1777),
    (b"tmpfs", b"tmpfs", b"/run", MS_NOSUID | MS_NODEV, b"mode=755", 0o755),
    (b"tmpfs", b"tmpfs", b"/tmp", MS_NOSUID | MS_NODEV, b"mode=1777", 0o1777),
)


def prepare_namespace(kernel: Kernel) -> None:
    """Builds the tree of mounts that programs see. Context: PID 1. Raises KernelError, OSError for a bad root."""
    mount_root(kernel)
    for fs_type, source, directory, flags, options, mode in _MOUNTS:
        make_directories(directory, mode)
        do_mount(source, directory, fs_type, flags, options)
    do_mount(b"", b"/sys/kernel/tracing", b"", MS_SHARED, b"")       # uftrace wants to see "shared:N" there
    for number, share in enumerate(kernel.params.shares):
        tag = b"share%d" % number
        hostfs_share(kernel, tag, HostDir(os.path.abspath(share.host), writable=share.writable), EVERYTHING)
        guest = os.path.normpath("/" + share.guest).encode(errors="surrogateescape")
        make_directories(guest, 0o755)
        do_mount(tag, guest, b"hostfs", MS_NOSUID | MS_NODEV | (0 if share.writable else MS_RDONLY), b"")


def mount_root(kernel: Kernel) -> None:
    """Mounts an overlay of the host's files and a tmpfs, and makes it "/"."""
    root = kernel.params.root
    if root is None:
        hostfs_share(kernel, b"root", HostDir("/"), SYSTEM_ROOT)
    else:
        hostfs_share(kernel, b"root", HostDir(os.path.abspath(root)), EVERYTHING)
    for name in (b"/lower", b"/memory", b"/root"):
        do_mkdirat_kernel(name, 0o755)
    do_mount(b"root", b"/lower", b"hostfs", MS_RDONLY, b"")
    do_mount(b"tmpfs", b"/memory", b"tmpfs", 0, b"mode=755")
    for name in (b"/memory/upper", b"/memory/work"):
        do_mkdirat_kernel(name, 0o755)
    do_mount(b"overlay", b"/root", b"overlay", 0, b"lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work")
    chdir_kernel(b"/root")
    do_mount(b".", b"/", b"", MS_MOVE, b"")
    chroot_kernel(b".")


@notrace
def make_directories(path: bytes, mode: int) -> None:
    """mkdir -p; the last one gets `mode`."""
    parts = path.strip(b"/").split(b"/")
    for i in range(1, len(parts) + 1):
        try:
            do_mkdirat_kernel(b"/" + b"/".join(parts[:i]), mode if i == len(parts) else 0o755)
        except KernelError as error:
            if error.errno != EEXIST:
                raise
