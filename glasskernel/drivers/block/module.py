"""Drivers of block devices that nobody needs at start: they are imported when one of their devices is opened.

Linux: request_module() for "block-major-N" and "devname:loop-control" (5.3): on Debian, loop and brd are modules, too.
    Until loop is loaded there are files in /dev for it, but no disks. brd.rd_nr=N loads brd at boot.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import LOOP_MAJOR, LOOP_MIN_COUNT, RAMDISK_MAJOR
from glasskernel.block.genhd import blk_register_region
from glasskernel.block.genhd_register import DISK_GROUP
from glasskernel.drivers.char.misc import Miscdevice, misc_register
from glasskernel.fs.devtmpfs import devtmpfs_create_node
from glasskernel.fs.types import MKDEV, FileOperations
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Gendisk
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

LOOP_CTRL_MINOR = 237


@notrace
@may_sleep
def load_loop(kernel: Kernel, dev: int) -> tuple[Gendisk, int] | None:
    from glasskernel.drivers.block.loop import loop_init, loop_probe

    loop_init(kernel)
    return loop_probe(kernel, dev)


@notrace
@may_sleep
def load_brd(kernel: Kernel, dev: int) -> tuple[Gendisk, int] | None:
    from glasskernel.drivers.block.brd import brd_init

    brd_init(kernel)
    return kernel.block.bdev_map.get(dev)


@notrace
@may_sleep
def open_loop_control(inode: Inode, file: File) -> None:
    from glasskernel.drivers.block.loop import loop_ctl_fops, loop_init

    kernel = inode.i_sb.kernel
    if kernel.block.loop_ctl_mutex is None:
        loop_init(kernel)
    file.f_op = loop_ctl_fops


@notrace
@may_sleep
def block_modules_init(kernel: Kernel) -> None:
    """What there is of them before they are loaded. Context: boot."""
    blk_register_region(kernel, LOOP_MAJOR, lambda dev: load_loop(kernel, dev))
    misc_register(kernel, Miscdevice(LOOP_CTRL_MINOR, b"loop-control", FileOperations(open=open_loop_control), 0o660))
    for number in range(LOOP_MIN_COUNT):
        devtmpfs_create_node(kernel, b"loop%d" % number, 0o660, MKDEV(LOOP_MAJOR, number), True, 0, DISK_GROUP)
    blk_register_region(kernel, RAMDISK_MAJOR, lambda dev: load_brd(kernel, dev))
    if "brd.rd_nr=" in kernel.params.cmdline:
        load_brd(kernel, 0)
