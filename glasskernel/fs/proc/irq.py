"""/proc/irq: who takes a line, and who may.

Linux: kernel/irq/proc.c (5.3). Same: files, modes, errors; a mask is hexadecimal, a list is ranges.
Owns: nothing. Gaps: a directory for each handler, affinity_hint, node.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_data, proc_create_single_data, proc_mkdir
from glasskernel.fs.seq_file import SeqFile, seq_lseek, seq_puts, seq_read, single_open, single_release
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.irq.affinity import (
    effective_cpu,
    irq_can_set_affinity_usr,
    irq_select_affinity_usr,
    irq_set_affinity,
)
from glasskernel.lib.bitmap import bitmap_parselist
from glasskernel.lib.errno import EINVAL, EIO, EOVERFLOW, KernelError
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.proc.internal import ProcDirEntry
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.irq.irqdesc import IrqDesc
    from glasskernel.mm.iov_iter import IovIter


@notrace
def cpumask_parse_user(text: bytes, nr_cpus: int) -> int:
    """A hexadecimal mask, with commas between words. Raises EINVAL, EOVERFLOW (a CPU that cannot be)."""
    digits = text.strip().replace(b",", b"")
    try:
        mask = int(digits, 16)
    except ValueError:
        raise KernelError(EINVAL) from None
    if mask < 0 or mask >> nr_cpus:
        raise KernelError(EOVERFLOW)
    return mask


@notrace
def show_mask(m: SeqFile, mask: int, as_list: bool) -> int | None:
    seq_puts(m, (cpumask_list(mask) if as_list else cpumask_hex(mask, len(current().kernel.machine.cpus))) + b"\n")
    return None


def irq_affinity_proc_show(m: SeqFile, v: Any) -> int | None:
    return show_mask(m, m.private.affinity, False)


def irq_affinity_list_proc_show(m: SeqFile, v: Any) -> int | None:
    return show_mask(m, m.private.affinity, True)


def irq_effective_aff_proc_show(m: SeqFile, v: Any) -> int | None:
    return show_mask(m, 1 << effective_cpu(m.private), False)


def irq_effective_aff_list_proc_show(m: SeqFile, v: Any) -> int | None:
    return show_mask(m, 1 << effective_cpu(m.private), True)


def write_irq_affinity(as_list: bool, iocb: Kiocb, source: IovIter) -> int:
    """Errors: EIO (this line cannot move), EINVAL, EOVERFLOW."""
    desc: IrqDesc = iocb.ki_filp.private_data.private
    sched = desc.kernel.sched
    if not irq_can_set_affinity_usr(desc):
        raise KernelError(EIO)
    count = source.count
    text = source.copy_from_iter(count)
    cpus = len(desc.kernel.machine.cpus)
    mask = bitmap_parselist(text, cpus) if as_list else cpumask_parse_user(text, cpus)
    if mask & sched.cpu_online_mask:
        irq_set_affinity(desc, mask)
    else:
        irq_select_affinity_usr(desc)
    return count


irq_affinity_proc_write = partial(write_irq_affinity, False)
irq_affinity_list_proc_write = partial(write_irq_affinity, True)


def default_affinity_show(m: SeqFile, v: Any) -> int | None:
    return show_mask(m, current().kernel.irq.default_affinity, False)


def default_affinity_write(iocb: Kiocb, source: IovIter) -> int:
    """Of lines that are requested from now on. Errors: EINVAL, EOVERFLOW."""
    kernel = current().kernel
    count = source.count
    mask = cpumask_parse_user(source.copy_from_iter(count), len(kernel.machine.cpus))
    if not mask & kernel.sched.cpu_online_mask:
        raise KernelError(EINVAL)
    kernel.irq.default_affinity = mask
    return count


def irq_spurious_proc_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"count %d\nunhandled 0\nlast_unhandled 0 ms\n" % (m.private.tot_count % 100_000))
    return None


@notrace
def _operations(show: Callable[[SeqFile, Any], int | None], write: Callable[[Kiocb, IovIter], int]) -> FileOperations:
    def irq_proc_open(inode: Inode, file: File) -> None:
        single_open(file, show, inode.i_private.data)

    return FileOperations(open=irq_proc_open, read_iter=seq_read, write_iter=write, llseek=seq_lseek,
                          release=single_release)


_FILES = ((b"smp_affinity", irq_affinity_proc_show, irq_affinity_proc_write),
          (b"smp_affinity_list", irq_affinity_list_proc_show, irq_affinity_list_proc_write))
_SHOWN = ((b"effective_affinity", irq_effective_aff_proc_show),
          (b"effective_affinity_list", irq_effective_aff_list_proc_show), (b"spurious", irq_spurious_proc_show))


def register_irq_proc(kernel: Kernel, root: ProcDirEntry, desc: IrqDesc) -> None:
    """/proc/irq/N"""
    dir = proc_mkdir(kernel, b"%d" % desc.irq, root)
    for name, show, write in _FILES:
        proc_create_data(kernel, name, 0o644, dir, _operations(show, write), desc)
    for name, show in _SHOWN:
        proc_create_single_data(kernel, name, 0, dir, show, desc)


def init_irq_proc(kernel: Kernel) -> None:
    """/proc/irq, with the lines that somebody has asked for; others come when they are."""
    root = proc_mkdir(kernel, b"irq")
    proc_create_data(kernel, b"default_smp_affinity", 0o644, root,
                     _operations(default_affinity_show, default_affinity_write), None)
    for desc in kernel.irq.descs.values():
        register_irq_proc(kernel, root, desc)
    kernel.irq.register_irq_proc = lambda desc: register_irq_proc(kernel, root, desc)
