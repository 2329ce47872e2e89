"""The ELF core file: headers, notes, memory.

Linux: fs/binfmt_elf.c (elf_core_dump), include/linux/elfcore.h, arch/x86/include/asm/elf.h (5.3). Same: the
    order of notes and segments, which areas are dumped (coredump_filter's default 0x33), holes for pages that
    never were.
Differs: no NT_X86_XSTATE (the CPU has no XSAVE). Gaps: coredump_filter is fixed.
Owns: nothing. Context: the dying task; may sleep.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import lookup_pte
from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, R11, R12, R13, R14, R15, SI, SP
from glasskernel.fs.d_path import d_path
from glasskernel.fs.dentry_open import do_truncate
from glasskernel.fs.read_write import kernel_write
from glasskernel.kernel.pid import task_pgrp_vnr, task_pid_vnr, task_ppid_nr, task_session_vnr, task_tgid_vnr
from glasskernel.kernel.sched.core import task_nice
from glasskernel.kernel.sched.cputime import task_cputime
from glasskernel.kernel.signal import __fatal_signal_pending
from glasskernel.kernel.task import TASK_RUNNING, TaskStruct
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.memory import access_process_vm
from glasskernel.mm.types import VM_DONTDUMP, VM_EXEC, VM_IO, VM_READ, VM_SHARED, VM_WRITE, VmAreaStruct

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.kernel.signal_types import KernelSiginfo

NT_PRSTATUS, NT_FPREGSET, NT_PRPSINFO, NT_AUXV, NT_SIGINFO, NT_FILE = 1, 2, 3, 6, 0x53494749, 0x46494C45
PT_LOAD, PT_NOTE = 1, 4
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_PRSTATUS = struct.Struct("<iiihhQQiiii8q27QiI")
_PRPSINFO = struct.Struct("<bcbbiQIIiiii16s80s")
# the order of elf_gregset_t; None: orig_ax, -1: what is not in pt_regs
_GREGS = (R15, R14, R13, R12, BP, BX, R11, R10, R9, R8, AX, CX, DX, SI, DI)
_USER_CS, _USER_DS = 0x33, 0x2B


@slotted
class DumpedThread:
    """What the notes say of one thread."""

    prstatus: bytes
    fpregs: bytes


@notrace
def snapshot_thread(task: TaskStruct, signr: int) -> DumpedThread:
    """The registers as user mode left them, and the signals that wait."""
    thread = task.thread
    regs = thread.regs
    gregs = [regs[i] for i in _GREGS]
    gregs += [
        thread.orig_ax & (1 << 64) - 1, regs[IP], _USER_CS, thread.get_eflags(), regs[SP], _USER_DS,
        thread.fs_base, thread.gs_base, 0, 0, 0, 0,
    ]
    utime, stime = (ns // 1000 for ns in task_cputime(task))
    sig = task.signal
    cutime, cstime = sig.cutime // 1000, sig.cstime // 1000
    prstatus = _PRSTATUS.pack(
        signr, 0, 0, signr, 0, task.pending.signal, task.blocked,
        task_pid_vnr(task), task_ppid_nr(task), task_pgrp_vnr(task), task_session_vnr(task),
        utime // 1_000_000, utime % 1_000_000, stime // 1_000_000, stime % 1_000_000,
        cutime // 1_000_000, cutime % 1_000_000, cstime // 1_000_000, cstime % 1_000_000,
        *gregs, 1, 0,
    )
    return DumpedThread(prstatus, thread.get_fxstate())


@notrace
def _note(name: bytes, kind: int, data: bytes) -> bytes:
    padded = name + b"\0"
    return (
        _NOTE.pack(len(padded), len(data), kind) + padded.ljust(-(-len(padded) // 4) * 4, b"\0")
        + data.ljust(-(-len(data) // 4) * 4, b"\0")
    )


@notrace
def fill_psinfo(task: TaskStruct) -> bytes:
    """struct elf_prpsinfo."""
    mm = task.mm
    assert mm is not None
    size = min(mm.arg_end - mm.arg_start, 79)
    arguments = access_process_vm(task, mm.arg_start, max(size, 0)).replace(b"\0", b" ")
    state = 0 if task.state == TASK_RUNNING else task.state.bit_length()
    letter = b"RSDTZW"[state : state + 1] if state <= 5 else b"."
    return _PRPSINFO.pack(
        state, letter, letter == b"Z", task_nice(task), 0, task.flags, task.real_cred.uid, task.real_cred.gid,
        task_tgid_vnr(task), task_ppid_nr(task), task_pgrp_vnr(task), task_session_vnr(task), task.comm, arguments,
    )


@notrace
def fill_files_note(areas: list[VmAreaStruct]) -> bytes:
    """NT_FILE: which file is mapped where."""
    entries = [v for v in areas if v.vm_file is not None]
    words = [len(entries), 4096]
    names = b""
    for vma in entries:
        assert vma.vm_file is not None
        words += [vma.vm_start, vma.vm_end, vma.vm_pgoff]
        names += d_path(vma.vm_file.f_path) + b"\0"
    return struct.pack(f"<{len(words)}Q", *words) + names


@notrace
def vma_dump_size(vma: VmAreaStruct, task: TaskStruct) -> int:
    """How many bytes of an area are dumped: private and anonymous memory, and the page with an ELF header."""
    size = vma.vm_end - vma.vm_start
    if vma.vm_ops is not None and vma.vm_ops.name is not None and vma.vm_file is None:
        return size                              # always_dump_vma(): the vDSO
    if vma.vm_flags & (VM_DONTDUMP | VM_IO):
        return 0
    if vma.vm_flags & VM_SHARED:
        return size if vma.vm_file is not None and vma.vm_file.f_inode.i_nlink == 0 else 0
    if vma.vm_file is None or vma.anon_vma is not None:
        return size if vma.anon_vma is not None else 0
    if vma.vm_pgoff == 0 and vma.vm_flags & VM_READ and access_process_vm(task, vma.vm_start, 4) == b"\x7fELF":
        return 4096
    return 0


@may_sleep
def elf_core_dump(
    file: File, task: TaskStruct, siginfo: KernelSiginfo, threads: list[DumpedThread], limit: int
) -> bool:
    """Writes the core file, at most `limit` bytes. True: there is a core now, complete or cut."""
    mm = task.mm
    assert mm is not None
    areas = list(mm.vmas)
    sizes = [vma_dump_size(vma, task) for vma in areas]
    notes = b"".join((
        _note(b"CORE", NT_PRSTATUS, threads[0].prstatus),
        _note(b"CORE", NT_PRPSINFO, fill_psinfo(task)),
        _note(b"CORE", NT_SIGINFO, siginfo.pack()),
        _note(b"CORE", NT_AUXV, mm.saved_auxv),
        _note(b"CORE", NT_FILE, fill_files_note(areas)),
        _note(b"CORE", NT_FPREGSET, threads[0].fpregs),
        *(_note(b"CORE", NT_PRSTATUS, t.prstatus) + _note(b"CORE", NT_FPREGSET, t.fpregs) for t in threads[1:]),
    ))
    count = len(areas) + 1
    notes_offset = _EHDR.size + count * _PHDR.size
    offset = -(-(notes_offset + len(notes)) // 4096) * 4096
    head = [
        _EHDR.pack(b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, count, 0, 0, 0),
        _PHDR.pack(PT_NOTE, 0, notes_offset, 0, 0, len(notes), 0, 0),
    ]
    position = offset
    for vma, size in zip(areas, sizes):
        flags = (
            (4 if vma.vm_flags & VM_READ else 0) | (2 if vma.vm_flags & VM_WRITE else 0)
            | (1 if vma.vm_flags & VM_EXEC else 0)
        )
        head.append(_PHDR.pack(
            PT_LOAD, flags, position, vma.vm_start, 0, size, vma.vm_end - vma.vm_start, 4096
        ))
        position += size
    try:
        _emit(file, b"".join(head) + notes, 0, limit)
        _dump_memory(file, task, zip(areas, sizes), offset, limit)
    except KernelError:
        # the disk is full, or the limit is reached: a cut core is a core
        pass
    end = min(position, limit)
    if end > file.f_inode.i_size:                # dump_truncate(): a hole at the end
        do_truncate(file.f_path.dentry, end, 0, file)
    return True


@notrace
def _emit(file: File, data: bytes, position: int, limit: int) -> None:
    """dump_emit(). Raises EFBIG at the limit."""
    if position + len(data) > limit:
        raise KernelError(27)
    done = 0
    while done < len(data):
        done += kernel_write(file, data[done:], position + done)


@notrace
def _dump_memory(
    file: File, task: TaskStruct, areas: zip[tuple[VmAreaStruct, int]], offset: int, limit: int
) -> None:
    """The bytes of the segments.

    Pages that were never touched stay holes. Raises at the limit, or on SIGKILL.
    """
    mm = task.mm
    assert mm is not None
    ram64 = mm.kernel.machine.ram64
    for vma, size in areas:
        for address in range(vma.vm_start, vma.vm_start + size, 4096):
            slot = lookup_pte(ram64, mm.pgd, address)
            if (slot and ram64[slot]) or (vma.vm_ops is not None and vma.vm_ops.fault is not None):
                _emit(file, access_process_vm(task, address, 4096), offset, limit)
            offset += 4096
        if __fatal_signal_pending(task):
            raise KernelError(4)
