"""/sys/kernel/debug/page_tables: the page tables that are in use.

Linux: arch/x86/mm/debug_pagetables.c (5.3). Same: kernel, current_kernel, current_user; read by root only.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.mm.dump_pagetables import ptdump_walk_pgd_level_core
from glasskernel.fs.debugfs.inode import debugfs_create_file
from glasskernel.fs.seq_file import seq_lseek, seq_puts, seq_read, single_open, single_release
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import current
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel


def ptdump_show(m: SeqFile, v: Any) -> int | None:
    """init_mm's."""
    kernel = current().kernel
    seq_puts(m, ptdump_walk_pgd_level_core(kernel, 0, kernel.vmalloc.pgd))
    return None


def ptdump_curknl_show(m: SeqFile, v: Any) -> int | None:
    """The reader's, as the kernel sees it."""
    task = current()
    if task.mm is not None:
        seq_puts(m, ptdump_walk_pgd_level_core(task.kernel, task.mm.pgd, task.mm.pgd))
    return None


def ptdump_curusr_show(m: SeqFile, v: Any) -> int | None:
    """The reader's, as they are loaded while its program runs."""
    task = current()
    if task.mm is not None:
        seq_puts(m, ptdump_walk_pgd_level_core(task.kernel, task.mm.pgd, 0))
    return None


@notrace
def _file(show: Callable[[SeqFile, Any], int | None]) -> FileOperations:
    def open(inode: Inode, file: File) -> None:
        single_open(file, show, None)

    return FileOperations(open=open, read_iter=seq_read, llseek=seq_lseek, release=single_release)


@notrace
def pt_dump_debug_init(kernel: Kernel, dir: TreeNode) -> None:
    """Context: the first who looks into the directory."""
    for name, show in (("kernel", ptdump_show), ("current_kernel", ptdump_curknl_show),
                       ("current_user", ptdump_curusr_show)):
        debugfs_create_file(kernel, name, 0o400, dir, None, _file(show))
