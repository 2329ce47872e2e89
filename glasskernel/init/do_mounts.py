"""The root file system: the host's directories underneath, everything that is written on top in memory.

Linux: init/do_mounts.c (5.3). Same: the real root is mounted on a directory of rootfs, moved over "/", and chroot'ed
into. Differs: what init scripts mount (/proc, /sys, /dev ...) is mounted here too.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.module import ext4_fill_later, ext4_fs_type
from glasskernel.fs.file_table import fput
from glasskernel.fs.hostfs.hostfs_kern import hostfs_share
from glasskernel.fs.hostfs.policy import EVERYTHING, SYSTEM_ROOT
from glasskernel.fs.mount_on_demand import kern_mount_on_demand
from glasskernel.fs.namei import do_mkdirat_kernel
from glasskernel.fs.namespace import MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, kernel_mount
from glasskernel.fs.open import chdir_kernel, chroot_kernel, filp_open
from glasskernel.fs.pnode import MS_SHARED
from glasskernel.fs.read_write import kernel_write
from glasskernel.fs.types import O_CREAT, O_WRONLY
from glasskernel.ipc.module import mqueue_on_demand
from glasskernel.kernel.configs import config_text
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EEXIST, KernelError, strerror
from glasskernel.lib.types import notrace
from glasskernel.machine.hostdir import HostDir

if TYPE_CHECKING:
    from glasskernel.init.command import Device
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
        kernel_mount(source, directory, fs_type, flags, options)
    if kernel.lsm is not None:
        mount_securityfs(kernel)
    if kernel.selinux is not None:
        mount_selinuxfs(kernel)
    make_directories(b"/dev/mqueue", 0o1777)
    mqueue_on_demand(kernel, b"/dev/mqueue")
    kernel_mount(b"", b"/sys/kernel/tracing", b"", MS_SHARED, b"")       # uftrace wants to see "shared:N" there
    if kernel.params.home_dev:
        mount_disk(kernel, kernel.params.home_dev, b"/root")
    for number, share in enumerate(kernel.params.shares):
        tag = b"share%d" % number
        hostfs_share(kernel, tag, HostDir(os.path.abspath(share.host), writable=share.writable), EVERYTHING)
        guest = os.path.normpath("/" + share.guest).encode(errors="surrogateescape")
        make_directories(guest, 0o755)
        kernel_mount(tag, guest, b"hostfs", MS_NOSUID | MS_NODEV | (0 if share.writable else MS_RDONLY), b"")


@notrace
def mount_securityfs(kernel: Kernel) -> None:
    """Security modules have files; an init mounts them."""
    from glasskernel.security.security_inode import securityfs_init

    securityfs_init(kernel)
    kernel_mount(b"securityfs", b"/sys/kernel/security", b"securityfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"")


@notrace
def mount_selinuxfs(kernel: Kernel) -> None:
    """Where SELinux is on, its tools look for it in /sys/fs/selinux."""
    from glasskernel.security.selinux.selinuxfs import init_sel_fs

    init_sel_fs(kernel)
    kernel_mount(b"selinuxfs", b"/sys/fs/selinux", b"selinuxfs", MS_NOSUID | MS_NOEXEC, b"")


def mount_root(kernel: Kernel) -> None:
    """Mounts a disk, or an overlay of the host's files and a tmpfs, and makes it "/"."""
    root = kernel.params.root
    if kernel.params.root_dev:
        for name in (b"/root", b"/dev"):
            do_mkdirat_kernel(name, 0o755)
        kernel_mount(b"devtmpfs", b"/dev", b"devtmpfs", 0, b"")
        mount_disk(kernel, kernel.params.root_dev, b"/root")
        return move_root()
    if root is None:
        hostfs_share(kernel, b"root", HostDir("/"), SYSTEM_ROOT)
    else:
        hostfs_share(kernel, b"root", HostDir(os.path.abspath(root)), EVERYTHING)
    for name in (b"/lower", b"/memory", b"/root"):
        do_mkdirat_kernel(name, 0o755)
    kernel_mount(b"root", b"/lower", b"hostfs", MS_RDONLY, b"")
    kernel_mount(b"tmpfs", b"/memory", b"tmpfs", 0, b"mode=755")
    for name in (b"/memory/upper", b"/memory/work"):
        do_mkdirat_kernel(name, 0o755)
    if root is None:
        install_config(kernel, b"/memory/upper/boot")
    kernel_mount(b"overlay", b"/root", b"overlay", 0, b"lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work")
    move_root()


@notrace
def move_root() -> None:
    """The file system mounted on /root of rootfs becomes everybody's "/"."""
    chdir_kernel(b"/root")
    kernel_mount(b".", b"/", b"", MS_MOVE, b"")
    chroot_kernel(b".")


@notrace
def mount_disk(kernel: Kernel, device: Device, directory: bytes) -> None:
    """Mounts a disk's file system; one that cannot be written only to be read. Raises KernelError."""
    disk = kernel.params.disks[ord(device.name[7]) - ord("a")]
    if device.fresh:
        return kern_mount_on_demand(kernel, ext4_fs_type, os.fsencode(device.name), directory, ext4_fill_later)
    flags = MS_RDONLY if disk.read_only else 0
    try:
        kernel_mount(os.fsencode(device.name), directory, os.fsencode(device.fs_type), flags, b"")
    except KernelError as error:
        told = [line.partition("] ")[2] for line in kernel.dmesg().splitlines() if "EXT4-fs" in line]
        reason = told[-1] if told else strerror(error.errno)
        kernel.boot_error = f"{disk.name or device.name} cannot be mounted: {reason}"
        kernel.printk(f"VFS: Unable to mount {device.name} on {directory.decode()}", 0)
        raise


@notrace
def install_config(kernel: Kernel, directory: bytes) -> None:
    """/boot/config-$(uname -r), as distributions ship it with a kernel."""
    make_directories(directory, 0o755)
    file = filp_open(directory + b"/config-" + current().nsproxy.uts_ns.release, O_WRONLY | O_CREAT, 0o644)
    kernel_write(file, config_text(kernel), 0)
    fput(file)


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
