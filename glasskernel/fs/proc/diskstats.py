"""/proc/diskstats and /proc/partitions.

Linux: block/genhd.c: diskstats_op, partitions_op, proc_genhd_init() (5.3). Same: formats; partitions of size 0 and
    disks without a medium are left out of both.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.block.blk_types import GENHD_FL_SUPPRESS_PARTITION_INFO
from glasskernel.block.genhd import disk_name, disk_part_iter, diskstats_line, get_capacity
from glasskernel.fs.proc.generic import proc_create_single_data
from glasskernel.fs.seq_file import SeqFile, seq_printf, seq_puts
from glasskernel.kernel.current import current

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def diskstats_show(m: SeqFile, v: Any) -> int | None:
    """One line for each disk, and for each of its partitions."""
    for disk in current().kernel.block.disks:
        for part in disk_part_iter(disk, True):
            seq_printf(m, b"%4d %7d %b %b\n", part.devt >> 20, part.devt & 0xFFFFF, disk_name(disk, part.partno),
                       diskstats_line(part))
    return None


def show_partition(m: SeqFile, v: Any) -> int | None:
    """Sizes in KB."""
    seq_puts(m, b"major minor  #blocks  name\n\n")
    for disk in current().kernel.block.disks:
        if not get_capacity(disk) or disk.flags & GENHD_FL_SUPPRESS_PARTITION_INFO:
            continue
        for part in disk_part_iter(disk, True):
            seq_printf(m, b"%4d  %7d %10d %b\n", part.devt >> 20, part.devt & 0xFFFFF, part.nr_sects >> 1,
                       disk_name(disk, part.partno))
    return None


def proc_genhd_init(kernel: Kernel) -> None:
    proc_create_single_data(kernel, b"diskstats", 0, None, diskstats_show)
    proc_create_single_data(kernel, b"partitions", 0, None, show_partition)
