"""/proc/kallsyms: every symbol of the kernel, by address.

Linux: kernel/kallsyms.c (5.3). Same: addresses are zeros for whoever lacks CAP_SYSLOG. Differs: a file of fs/, because
    kernel/kallsyms.py stands below it. Owns: nothing. Gaps: kptr_restrict.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_lseek, seq_open, seq_printf, seq_read, seq_release
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.capability import CAP_SYSLOG, capable
from glasskernel.kernel.kallsyms import kallsyms_table

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel


def s_start(m: SeqFile) -> Any:
    symbols = kallsyms_table().symbols
    return symbols[m.index] if m.index < len(symbols) else None


def s_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return s_start(m)


def s_show(m: SeqFile, v: Any) -> int | None:
    seq_printf(m, b"%016x T %b\n", v.address if m.private else 0, v.name.encode())
    return None


kallsyms_op = SeqOperations(s_start, s_next, s_show)


def kallsyms_open(inode: Inode, file: File) -> None:
    seq_open(file, kallsyms_op).private = kallsyms_show_value()


def kallsyms_show_value() -> bool:
    """Whether the caller may know addresses."""
    return capable(CAP_SYSLOG)


kallsyms_operations = FileOperations(open=kallsyms_open, read_iter=seq_read, llseek=seq_lseek,
                                     release=seq_release)


def kallsyms_init(kernel: Kernel) -> None:
    proc_create(kernel, b"kallsyms", 0o444, None, kallsyms_operations)
