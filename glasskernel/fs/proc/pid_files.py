"""The smaller files of /proc/PID: cmdline, environ, comm, limits, io, oom_*, sched, syscall, wchan, ...

Linux: fs/proc/base.c, kernel/sched/debug.c proc_sched_show_task() (5.3). Same: texts, checks, errors.
Owns: nothing. Context: task; those that read another's memory may sleep.
Gaps: loginuid cannot be set (no audit); id maps cannot be written (one user namespace).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.ptrace import DI, DX, IP, R8, R9, R10, SI, SP
from glasskernel.fs.proc.array import proc_task_name
from glasskernel.fs.proc.internal import get_proc_task, get_task_mm, mm_access, proc_task, seq_task
from glasskernel.fs.proc.wchan import get_wchan, stack_trace_save_tsk
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import (
    SeqFile,
    seq_lseek,
    seq_printf,
    seq_puts,
    seq_read,
    single_open,
    single_release,
)
from glasskernel.fs.types import FMODE_WRITE, FileOperations
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import task_pid_vnr, task_tgid_vnr
from glasskernel.kernel.ptrace_access import (
    PTRACE_MODE_ATTACH_FSCREDS,
    PTRACE_MODE_READ_FSCREDS,
    ptrace_may_access,
)
from glasskernel.kernel.sched.autogroup import proc_sched_autogroup_set_nice, proc_sched_autogroup_show_task
from glasskernel.kernel.sched.cputime import task_sched_runtime
from glasskernel.lib.errno import EACCES, EINVAL, EIO, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.memory import access_process_vm, get_user_page
from glasskernel.mm.types import TASK_SIZE

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import MmStruct

RLIM_INFINITY = (1 << 64) - 1


# ---- helpers -------------------------------------------------------------------------------------
@notrace
def _single(show: Callable[[SeqFile, Any], int | None],
            write: Callable[[Kiocb, IovIter], int] | None = None) -> FileOperations:
    """A file of one record that may also be written to."""
    def open_(inode: Inode, file: File) -> None:
        single_open(file, show, inode)

    if write is None:
        return FileOperations(open=open_, read_iter=seq_read, llseek=seq_lseek, release=single_release)
    return FileOperations(open=open_, read_iter=seq_read, llseek=seq_lseek, release=single_release,
                          write_iter=write)


@notrace
def _read_buffer(iocb: Kiocb, to: IovIter, text: bytes) -> int:
    """simple_read_from_buffer()"""
    pos = iocb.ki_pos
    if pos >= len(text):
        return 0
    done = to.copy_to_iter(text[pos : pos + to.count])
    iocb.ki_pos = pos + done
    return done


@notrace
def _written_number(source: IovIter, limit: int = 12) -> tuple[int, int]:
    """(number, bytes taken) of a write; decimal, hexadecimal with 0x, octal with 0. Errors: EINVAL."""
    data = source.copy_from_iter(min(source.count, limit))
    text = data.strip(b" \t\n\0")
    try:
        sign = -1 if text[:1] == b"-" else 1
        digits = text.lstrip(b"+-")
        number = int(digits, 8) if digits[:1] == b"0" and digits[1:].isdigit() else int(digits, 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    return sign * number, len(data)


# ---- cmdline, environ, auxv, mem -----------------------------------------------------------------
@may_sleep
def get_task_cmdline(task: TaskStruct, mm: MmStruct) -> bytes:
    """The argument strings; behind setproctitle(3) up to the first NUL of what it wrote over the environment."""
    start, end, env_start, env_end = mm.arg_start, mm.arg_end, mm.env_start, mm.env_end
    if start >= end:
        return b""
    if env_start != end or env_end < env_start:
        env_start = env_end = end
    text = access_process_vm(task, start, end - start)
    if len(text) == end - start and text[-1:] != b"\0":
        more = access_process_vm(task, end, min(env_end - env_start, 4096))
        text = (text + more).split(b"\0")[0]
    return text


def proc_pid_cmdline_read(iocb: Kiocb, to: IovIter) -> int:
    """Errors: ESRCH."""
    task = proc_task(iocb.ki_filp.f_inode)
    mm = get_task_mm(task)
    return 0 if mm is None else _read_buffer(iocb, to, get_task_cmdline(task, mm))


proc_pid_cmdline_ops = FileOperations(read_iter=proc_pid_cmdline_read, llseek=generic_file_llseek)


def environ_open(inode: Inode, file: File) -> None:
    """Errors: EACCES for somebody else's process, ESRCH."""
    file.private_data = mm_access(proc_task(inode), PTRACE_MODE_READ_FSCREDS)


def environ_read(iocb: Kiocb, to: IovIter) -> int:
    mm: MmStruct | None = iocb.ki_filp.private_data
    task = get_proc_task(iocb.ki_filp.f_inode)
    if mm is None or task is None or task.mm is not mm or not mm.env_end:
        return 0
    size = mm.env_end - mm.env_start - iocb.ki_pos
    if size <= 0:
        return 0
    done = to.copy_to_iter(access_process_vm(task, mm.env_start + iocb.ki_pos, min(size, to.count)))
    iocb.ki_pos += done
    return done


proc_environ_operations = FileOperations(open=environ_open, read_iter=environ_read, llseek=generic_file_llseek)


def auxv_read(iocb: Kiocb, to: IovIter) -> int:
    """The auxiliary vector up to and with AT_NULL."""
    mm: MmStruct | None = iocb.ki_filp.private_data
    if mm is None:
        return 0
    auxv = mm.saved_auxv
    size = 0
    while size + 16 <= len(auxv):
        size += 16
        if auxv[size - 16 : size - 8] == bytes(8):
            break
    return _read_buffer(iocb, to, auxv[:size])


proc_auxv_operations = FileOperations(open=environ_open, read_iter=auxv_read, llseek=generic_file_llseek)


def mem_open(inode: Inode, file: File) -> None:
    """Errors: EACCES, ESRCH."""
    file.private_data = mm_access(proc_task(inode), PTRACE_MODE_ATTACH_FSCREDS)


@notrace
def _mem_chunk(mm: MmStruct, address: int, size: int, write: bool) -> tuple[int, int] | None:
    """(physical address, length) inside one page; None where nothing is mapped."""
    if address >= TASK_SIZE:
        return None
    try:
        pfn = get_user_page(mm, address, write, True)
    except KernelError:
        return None
    offset = address & 0xFFF
    return (pfn << 12) + offset, min(4096 - offset, size)


def mem_read(iocb: Kiocb, to: IovIter) -> int:
    """Errors: EIO where nothing is mapped."""
    mm: MmStruct | None = iocb.ki_filp.private_data
    if mm is None or not mm.mm_users:
        return 0
    done = 0
    while to.count:
        chunk = _mem_chunk(mm, iocb.ki_pos, to.count, False)
        if chunk is None:
            if not done:
                raise KernelError(EIO)
            break
        start, size = chunk
        copied = to.copy_to_iter(mm.kernel.machine.ram[start : start + size])
        iocb.ki_pos += copied
        done += copied
        if copied < size:
            break
    return done


def mem_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EIO where nothing is mapped."""
    mm: MmStruct | None = iocb.ki_filp.private_data
    if mm is None or not mm.mm_users:
        return 0
    done = 0
    while source.count:
        data = source.copy_from_iter(min(source.count, 4096 - (iocb.ki_pos & 0xFFF)))
        chunk = _mem_chunk(mm, iocb.ki_pos, len(data), True)
        if chunk is None:
            if not done:
                raise KernelError(EIO)
            break
        start, size = chunk
        mm.kernel.mem.note_kernel_write(start >> 12)
        mm.kernel.machine.ram[start : start + size] = data
        iocb.ki_pos += size
        done += size
    return done


def mem_lseek(file: File, offset: int, orig: int) -> int:
    """Errors: EINVAL for SEEK_END."""
    if orig == 1:
        offset += file.f_pos
    elif orig != 0:
        raise KernelError(EINVAL)
    file.f_pos = offset
    return offset


proc_mem_operations = FileOperations(open=mem_open, read_iter=mem_read, write_iter=mem_write, llseek=mem_lseek)


# ---- comm ----------------------------------------------------------------------------------------
def comm_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, proc_task_name(seq_task(m), False) + b"\n")
    return None


def comm_write(iocb: Kiocb, source: IovIter) -> int:
    """Renames a thread of the caller's own process. Errors: EINVAL for another's, ESRCH."""
    count = source.count
    data = source.copy_from_iter(min(count, 15))
    task = proc_task(iocb.ki_filp.f_inode)
    if task.tgid != current().tgid:
        raise KernelError(EINVAL)
    name = data.split(b"\0")[0].rstrip(b"\n")
    probe = task.kernel.tp.task_rename
    if probe is not None:
        probe(task, name)
    task.comm = name
    if task.kernel.perf is not None:
        task.kernel.perf.event_comm(task, False)
    return count


proc_pid_set_comm_operations = _single(comm_show, comm_write)


# ---- limits, personality, syscall, wchan, stack --------------------------------------------------
lnames: tuple[tuple[bytes, bytes], ...] = (
    (b"Max cpu time", b"seconds"), (b"Max file size", b"bytes"), (b"Max data size", b"bytes"),
    (b"Max stack size", b"bytes"), (b"Max core file size", b"bytes"), (b"Max resident set", b"bytes"),
    (b"Max processes", b"processes"), (b"Max open files", b"files"), (b"Max locked memory", b"bytes"),
    (b"Max address space", b"bytes"), (b"Max file locks", b"locks"), (b"Max pending signals", b"signals"),
    (b"Max msgqueue size", b"bytes"), (b"Max nice priority", b""), (b"Max realtime priority", b""),
    (b"Max realtime timeout", b"us"),
)


def proc_pid_limits(m: SeqFile, v: Any) -> int | None:
    """proc(5): soft and hard limits. Errors: ESRCH."""
    rlim = seq_task(m).signal.rlim
    seq_puts(m, b"Limit                     Soft Limit           Hard Limit           Units     \n")
    for (soft, hard), (name, unit) in zip(rlim, lnames):
        low = b"unlimited" if soft == RLIM_INFINITY else b"%d" % soft
        high = b"unlimited" if hard == RLIM_INFINITY else b"%d" % hard
        seq_printf(m, b"%-25b %-20b %-20b ", name, low, high)
        seq_puts(m, b"%-10b\n" % unit if unit else b"\n")
    return None


def proc_pid_personality(m: SeqFile, v: Any) -> int | None:
    task = seq_task(m)
    lock_trace(task)
    seq_printf(m, b"%08x\n", task.personality)
    return None


@notrace
def lock_trace(task: TaskStruct) -> None:
    """Errors: EPERM for somebody else's process."""
    if not ptrace_may_access(task, PTRACE_MODE_ATTACH_FSCREDS):
        raise KernelError(EPERM)


def proc_pid_syscall(m: SeqFile, v: Any) -> int | None:
    """The call that a sleeping task is in, its arguments, stack pointer and instruction. Errors: EPERM."""
    task = seq_task(m)
    lock_trace(task)
    if task.thread is None or task.state == 0:
        seq_puts(m, b"running\n")
        return None
    regs = task.thread.regs
    nr = task.thread.orig_ax
    if task.mm is None or nr < 0:
        seq_printf(m, b"%d 0x%x 0x%x\n", -1, 0 if task.mm is None else regs[SP], 0 if task.mm is None else regs[IP])
    else:
        seq_printf(m, b"%d 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x\n", nr, regs[DI], regs[SI], regs[DX],
                   regs[R10], regs[R8], regs[R9], regs[SP], regs[IP])
    return None


def proc_pid_wchan(m: SeqFile, v: Any) -> int | None:
    """The kernel function that the task sleeps in, or 0. No newline."""
    task = seq_task(m)
    name = get_wchan(task) if ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS) else None
    seq_puts(m, name.encode() if name is not None else b"0")
    return None


def proc_pid_stack(m: SeqFile, v: Any) -> int | None:
    """The kernel stack of a task. Errors: EACCES without CAP_SYS_ADMIN, EPERM."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EACCES)
    task = seq_task(m)
    lock_trace(task)
    for line in stack_trace_save_tsk(task):
        seq_printf(m, b"[<0>] %b\n", line.encode())
    return None


# ---- sched, schedstat, cgroup --------------------------------------------------------------------
@notrace
def _split(ns: int) -> bytes:
    """SPLIT_NS(): milliseconds with six digits; negative values as Linux prints them."""
    sign = b"-" if ns < 0 else b""
    return b"%b%d.%06d" % (sign, abs(ns) // 1_000_000, abs(ns) % 1_000_000)


def proc_sched_show_task(m: SeqFile, task: TaskStruct) -> None:
    """What the scheduler keeps of the task."""
    task_sched_runtime(task)
    se = task.se
    vruntime = ((se.vruntime ^ 1 << 63) & (1 << 64) - 1) - (1 << 63)
    head = b"%b (%d, #threads: %d)\n" % (task.comm, task_pid_vnr(task), task.signal.nr_threads)
    seq_puts(m, head)
    seq_puts(m, b"-------------------------------------------------------------------\n")
    lines: list[tuple[bytes, bytes]] = [
        (b"se.exec_start", b"%21b" % _split(se.exec_start)),
        (b"se.vruntime", b"%21b" % _split(vruntime)),
        (b"se.sum_exec_runtime", b"%21b" % _split(se.sum_exec_runtime)),
        (b"se.nr_migrations", b"%21d" % se.nr_migrations),
        (b"nr_switches", b"%21d" % (task.nvcsw + task.nivcsw)),
        (b"nr_voluntary_switches", b"%21d" % task.nvcsw),
        (b"nr_involuntary_switches", b"%21d" % task.nivcsw),
        (b"se.load.weight", b"%21d" % se.weight),
        (b"policy", b"%21d" % task.policy),
        (b"prio", b"%21d" % task.prio),
    ]
    seq_puts(m, b"".join(b"%-45b:%b\n" % line for line in lines))


def sched_show(m: SeqFile, v: Any) -> int | None:
    proc_sched_show_task(m, seq_task(m))
    return None


def sched_write(iocb: Kiocb, source: IovIter) -> int:
    """Clears the counts of context switches and migrations. Errors: ESRCH."""
    task = proc_task(iocb.ki_filp.f_inode)
    task.se.nr_migrations = 0
    task.nvcsw = task.nivcsw = 0
    count = source.count
    source.copy_from_iter(count)
    return count


proc_pid_sched_operations = _single(sched_show, sched_write)


def sched_autogroup_show(m: SeqFile, v: Any) -> int | None:
    """Its session among the groups that the scheduler knows, and the session's nice level."""
    seq_puts(m, proc_sched_autogroup_show_task(seq_task(m)))
    return None


def sched_autogroup_write(iocb: Kiocb, source: IovIter) -> int:
    """The session's nice level. Errors: EINVAL, EPERM, EAGAIN, ESRCH."""
    nice, count = _written_number(source)
    proc_sched_autogroup_set_nice(proc_task(iocb.ki_filp.f_inode), nice)
    return count


proc_pid_sched_autogroup_operations = _single(sched_autogroup_show, sched_autogroup_write)


def proc_pid_schedstat(m: SeqFile, v: Any) -> int | None:
    """Time on a CPU, time on a run queue (ns), number of times it ran."""
    task = seq_task(m)
    seq_printf(m, b"%d %d %d\n", task_sched_runtime(task), task.se.run_delay, task.se.pcount)
    return None


def proc_cgroup_show(m: SeqFile, v: Any) -> int | None:
    """A line for each hierarchy (kernel/cgroup)."""
    task = seq_task(m)
    seq_puts(m, task.kernel.show_task_cgroups(task))
    return None


def proc_cpuset_show(m: SeqFile, v: Any) -> int | None:
    """The group of cpuset (kernel/cgroup/cpuset.py)."""
    task = seq_task(m)
    seq_puts(m, task.kernel.show_task_cpuset(task))
    return None


# ---- out of memory -------------------------------------------------------------------------------
def proc_oom_score(m: SeqFile, v: Any) -> int | None:
    from glasskernel.mm.oom_kill import oom_badness  # late: start-up time
    from glasskernel.mm.swap_types import total_swap_pages

    task = seq_task(m)
    total = task.kernel.mem.totalram_pages + total_swap_pages(task.kernel)
    seq_printf(m, b"%d\n", oom_badness(task, total) * 1000 // total)
    return None


def oom_adj_read(m: SeqFile, v: Any) -> int | None:
    """The old scale, -17 to 15."""
    adj = seq_task(m).signal.oom_score_adj
    seq_printf(m, b"%d\n", 15 if adj == 1000 else int(adj * 17 / 1000))
    return None


def __set_oom_adj(iocb: Kiocb, oom_adj: int, legacy: bool) -> None:
    """Errors: EACCES when it would protect the process more than its lowest value, which CAP_SYS_RESOURCE sets."""
    task = proc_task(iocb.ki_filp.f_inode)
    signal = task.signal
    privileged = capable(CAP_SYS_RESOURCE)
    if oom_adj < (signal.oom_score_adj if legacy else signal.oom_score_adj_min) and not privileged:
        raise KernelError(EACCES)
    signal.oom_score_adj = oom_adj
    if not legacy and privileged:
        signal.oom_score_adj_min = oom_adj
    probe = task.kernel.tp.oom_score_adj_update
    if probe is not None:
        probe(task)


def oom_adj_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EINVAL outside -17..15, EACCES."""
    adj, taken = _written_number(source)
    if not -17 <= adj <= 15:
        raise KernelError(EINVAL)
    __set_oom_adj(iocb, 1000 if adj == 15 else int(adj * 1000 / 17), True)
    return taken


def oom_score_adj_read(m: SeqFile, v: Any) -> int | None:
    seq_printf(m, b"%d\n", seq_task(m).signal.oom_score_adj)
    return None


def oom_score_adj_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EINVAL outside -1000..1000, EACCES."""
    adj, taken = _written_number(source)
    if not -1000 <= adj <= 1000:
        raise KernelError(EINVAL)
    __set_oom_adj(iocb, adj, False)
    return taken


proc_oom_adj_operations = _single(oom_adj_read, oom_adj_write)
proc_oom_score_adj_operations = _single(oom_score_adj_read, oom_score_adj_write)


# ---- audit's numbers, which nobody set -----------------------------------------------------------
def proc_loginuid_read(iocb: Kiocb, to: IovIter) -> int:
    return _read_buffer(iocb, to, b"4294967295")


def proc_loginuid_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EPERM."""
    raise KernelError(EPERM)


proc_loginuid_operations = FileOperations(
    read_iter=proc_loginuid_read, write_iter=proc_loginuid_write, llseek=generic_file_llseek,
)
proc_sessionid_operations = FileOperations(read_iter=proc_loginuid_read, llseek=generic_file_llseek)


# ---- accounting ----------------------------------------------------------------------------------
def do_io_accounting(m: SeqFile, whole: bool) -> int | None:
    """Errors: EACCES, ESRCH."""
    task = seq_task(m)
    if not ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS):
        raise KernelError(EACCES)
    tasks = task.signal.threads if whole and task.sighand is not None else [task]
    total = [0] * 6
    for t in tasks:
        for i, value in enumerate((t.rchar, t.wchar, t.syscr, t.syscw, t.read_bytes, t.write_bytes)):
            total[i] += value
    seq_puts(m, (b"rchar: %d\nwchar: %d\nsyscr: %d\nsyscw: %d\nread_bytes: %d\nwrite_bytes: %d\n"
                 b"cancelled_write_bytes: 0\n") % tuple(total))
    return None


def proc_tid_io_accounting(m: SeqFile, v: Any) -> int | None:
    return do_io_accounting(m, False)


def proc_tgid_io_accounting(m: SeqFile, v: Any) -> int | None:
    return do_io_accounting(m, True)


# ---- the user namespace --------------------------------------------------------------------------
def uid_m_show(m: SeqFile, v: Any) -> int | None:
    seq_task(m)
    seq_printf(m, b"%10d %10d %10d\n", 0, 0, 0xFFFFFFFF)
    return None


@notrace
def proc_id_map_write(iocb: Kiocb, source: IovIter) -> int:
    """The initial namespace's map is fixed. Errors: EPERM."""
    raise KernelError(EPERM)


proc_uid_map_operations = _single(uid_m_show, proc_id_map_write)
proc_gid_map_operations = _single(uid_m_show, proc_id_map_write)
proc_projid_map_operations = _single(uid_m_show, proc_id_map_write)


def proc_setgroups_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"allow\n")
    return None


def proc_setgroups_open(inode: Inode, file: File) -> None:
    """Errors: EACCES for writing: the initial namespace allows it for good."""
    if file.f_mode & FMODE_WRITE:
        raise KernelError(EACCES)
    single_open(file, proc_setgroups_show, None)


proc_setgroups_operations = FileOperations(
    open=proc_setgroups_open, read_iter=seq_read, llseek=seq_lseek, release=single_release,
)


# ---- timers --------------------------------------------------------------------------------------
_NOTIFY = {0: b"signal", 1: b"none", 2: b"thread"}


@notrace
def timers_show(m: SeqFile, v: Any) -> int | None:
    """The POSIX timers of the process. Errors: ESRCH."""
    task = seq_task(m)
    for number in sorted(task.signal.posix_timers):
        timer = task.signal.posix_timers[number]
        notify = getattr(timer, "it_sigev_notify", 0)
        target = b"tid" if notify & 4 else b"pid"
        seq_printf(m, b"ID: %d\nsignal: %d/%016x\nnotify: %b/%b.%d\nClockID: %d\n", number,
                   getattr(timer, "sigev_signo", 0), getattr(timer, "sigev_value", 0),
                   _NOTIFY.get(notify & ~4, b"signal"), target, task.pid, getattr(timer, "it_clock", 0))
    return None


proc_timers_operations = _single(timers_show)


def timerslack_ns_show(m: SeqFile, v: Any) -> int | None:
    """Errors: EPERM for another's process without CAP_SYS_NICE, ESRCH."""
    task = seq_task(m)
    if task is not current() and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    seq_printf(m, b"%d\n", task.timer_slack_ns)
    return None


def timerslack_ns_write(iocb: Kiocb, source: IovIter) -> int:
    """0: back to 50 us. Errors: EINVAL, EPERM, ESRCH."""
    number, taken = _written_number(source, 20)
    task = proc_task(iocb.ki_filp.f_inode)
    if task is not current() and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    task.timer_slack_ns = number if number > 0 else 50_000
    return taken


proc_pid_set_timerslack_ns_operations = _single(timerslack_ns_show, timerslack_ns_write)


# ---- task/TID/children ---------------------------------------------------------------------------
@notrace
def proc_tid_children(m: SeqFile, v: Any) -> int | None:
    """The numbers of the thread's children, each with a space behind it."""
    seq_puts(m, b"".join(b"%d " % task_tgid_vnr(child) for child in seq_task(m).children))
    return None
