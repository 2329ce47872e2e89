"""/proc/PID/status, stat and statm.

Linux: fs/proc/array.c, task_mem() and task_statm() of fs/proc/task_mmu.c (5.3). Same: every field, its
    width and order.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.internal import get_task_mm, seq_task
from glasskernel.fs.proc.wchan import get_wchan
from glasskernel.fs.seq_file import seq_put_decimal_ull, seq_putc, seq_puts
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_SID,
    PIDTYPE_TGID,
    pid_numbers,
    pid_vnr,
    task_pid_ptr,
    task_pid_vnr,
    task_ppid_nr,
    task_tgid_vnr,
)
from glasskernel.kernel.ptrace_access import (
    PTRACE_MODE_NOAUDIT,
    PTRACE_MODE_READ_FSCREDS,
    ptrace_may_access,
)
from glasskernel.kernel.sched.cputime import task_cputime_adjusted, thread_group_cputime_adjusted
from glasskernel.kernel.task import (
    PF_DUMPCORE,
    PF_EXITING,
    PF_WQ_WORKER,
    RLIMIT_RSS,
    RLIMIT_SIGPENDING,
    TASK_IDLE,
)
from glasskernel.kernel.time.timekeeping import nsec_to_clock_t
from glasskernel.kernel.workqueue import wq_worker_comm
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list
from glasskernel.mm.mempolicy import MAX_NUMNODES, cpuset_mems_allowed
from glasskernel.mm.types import MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES, MM_SWAPENTS, PAGE_MASK

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct

MAX_RT_PRIO, DEFAULT_PRIO = 100, 120
_TASK_REPORT = 0x7F
task_state_array = (
    b"R (running)", b"S (sleeping)", b"D (disk sleep)", b"T (stopped)", b"t (tracing stop)", b"X (dead)",
    b"Z (zombie)", b"P (parked)", b"I (idle)",
)


@notrace
def get_task_state(task: TaskStruct) -> bytes:
    """b"S (sleeping)": what ps and top show."""
    if task.state == TASK_IDLE:
        return task_state_array[8]
    return task_state_array[((task.state | task.exit_state) & _TASK_REPORT).bit_length()]


def proc_task_name(task: TaskStruct, escape: bool) -> bytes:
    """comm; a kworker's with the work it does. escape: newline and backslash in C's manner."""
    comm = task.comm
    if task.flags & PF_WQ_WORKER:
        comm = wq_worker_comm(task)
    if escape:
        comm = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    return comm


# ---- memory --------------------------------------------------------------------------------------
@notrace
def get_mm_rss(mm: MmStruct) -> int:
    rss = mm.rss_stat
    return rss[MM_FILEPAGES] + rss[MM_ANONPAGES] + rss[MM_SHMEMPAGES]


@notrace
def _text_bytes(mm: MmStruct) -> int:
    return ((mm.end_code + 0xFFF) & PAGE_MASK) - (mm.start_code & PAGE_MASK)


def task_mem(m: SeqFile, mm: MmStruct) -> None:
    """VmPeak ... VmSwap, in kB."""
    rss = mm.rss_stat
    total_rss = get_mm_rss(mm)
    text = min(_text_bytes(mm), mm.exec_vm << 12)
    lib = (mm.exec_vm << 12) - text
    seq_puts(m, (
        b"VmPeak:\t%8d kB\nVmSize:\t%8d kB\nVmLck:\t%8d kB\nVmPin:\t%8d kB\nVmHWM:\t%8d kB\nVmRSS:\t%8d kB\n"
        b"RssAnon:\t%8d kB\nRssFile:\t%8d kB\nRssShmem:\t%8d kB\nVmData:\t%8d kB\nVmStk:\t%8d kB\n"
        b"VmExe:\t%8d kB\nVmLib:\t%8d kB\nVmPTE:\t%8d kB\nVmSwap:\t%8d kB\n"
        b"HugetlbPages:\t%8d kB\n") % (
        max(mm.hiwater_vm, mm.total_vm) << 2, mm.total_vm << 2, mm.locked_vm << 2, mm.pinned_vm << 2,
        max(mm.hiwater_rss, total_rss) << 2, total_rss << 2, rss[MM_ANONPAGES] << 2, rss[MM_FILEPAGES] << 2,
        rss[MM_SHMEMPAGES] << 2, mm.data_vm << 2, mm.stack_vm << 2, text >> 10, lib >> 10,
        mm.pgtables_bytes >> 10, rss[MM_SWAPENTS] << 2, mm.hugetlb_usage << 2))


def task_statm(mm: MmStruct) -> tuple[int, int, int, int, int]:
    """(size, shared, text, data, resident) in pages."""
    rss = mm.rss_stat
    shared = rss[MM_FILEPAGES] + rss[MM_SHMEMPAGES]
    return (mm.total_vm, shared, _text_bytes(mm) >> 12, mm.data_vm + mm.stack_vm, shared + rss[MM_ANONPAGES])


# ---- status --------------------------------------------------------------------------------------
@notrace
def _numbers(task: TaskStruct, kind: int) -> bytes:
    return b"".join(b"\t%d" % number for number in pid_numbers(task_pid_ptr(task, kind)))


@notrace
def task_state(m: SeqFile, task: TaskStruct) -> None:
    """Umask ... NSsid"""
    cred = task.real_cred
    tracer = task_pid_vnr(task.parent) if task.ptrace and task.parent is not None else 0
    files = task.files
    fdsize = 0
    if files is not None:
        fdsize = 64
        while fdsize < len(files.fd):
            fdsize <<= 1
    if task.fs is not None:
        seq_puts(m, b"Umask:\t%04o\n" % (task.fs.umask & 0o7777))
    seq_puts(m, (
        b"State:\t%b\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t%d\n"
        b"Uid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\nFDSize:\t%d\nGroups:\t%b \n"
        b"NStgid:%b\nNSpid:%b\nNSpgid:%b\nNSsid:%b\n") % (
        get_task_state(task), task_tgid_vnr(task), task_pid_vnr(task),
        task_ppid_nr(task) if task.exit_state != 0x10 else 0, tracer,
        cred.uid, cred.euid, cred.suid, cred.fsuid, cred.gid, cred.egid, cred.sgid, cred.fsgid,
        fdsize, b" ".join(b"%d" % g for g in cred.groups),
        _numbers(task, PIDTYPE_TGID), _numbers(task, PIDTYPE_PID), _numbers(task, PIDTYPE_PGID),
        _numbers(task, PIDTYPE_SID)))


@notrace
def collect_sigign_sigcatch(task: TaskStruct) -> tuple[int, int]:
    """(ignored, caught) masks."""
    ignored = caught = 0
    if task.sighand is not None:
        for i, action in enumerate(task.sighand.action):
            handler = action.handler
            if handler == 1:
                ignored |= 1 << i
            elif handler:
                caught |= 1 << i
    return ignored, caught


@notrace
def task_sig(m: SeqFile, task: TaskStruct) -> None:
    """Threads ... SigCgt"""
    ignored, caught = collect_sigign_sigcatch(task)
    signal = task.signal
    user = task.kernel.pids.users.get(task.real_cred.uid)
    rlim = signal.rlim
    limit = rlim[RLIMIT_SIGPENDING][0] if len(rlim) > RLIMIT_SIGPENDING else 0
    alive = task.sighand is not None
    seq_puts(m, (
        b"Threads:\t%d\nSigQ:\t%d/%d\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\n"
        b"SigIgn:\t%016x\nSigCgt:\t%016x\n") % (
        signal.nr_threads if alive else 0, user.sigpending if user else 0, limit, task.pending.signal,
        signal.shared_pending.signal, task.blocked, ignored, caught))


@notrace
def task_cap(m: SeqFile, task: TaskStruct) -> None:
    cred = task.real_cred
    seq_puts(m, b"CapInh:\t%016x\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\nCapAmb:\t%016x\n" % (
        cred.cap_inheritable, cred.cap_permitted, cred.cap_effective, cred.cap_bset, cred.cap_ambient))


@notrace
def task_seccomp(m: SeqFile, task: TaskStruct) -> None:
    seq_puts(m, b"NoNewPrivs:\t%d\nSeccomp:\t%d\nSpeculation_Store_Bypass:\tnot vulnerable\n"
             % (task.real_cred.no_new_privs, task.seccomp_mode))


@notrace
def task_cpus_allowed(m: SeqFile, task: TaskStruct) -> None:
    nr_cpus = len(task.kernel.machine.cpus)
    mask = task.cpus_allowed & (1 << nr_cpus) - 1
    seq_puts(m, b"Cpus_allowed:\t%b\nCpus_allowed_list:\t%b\n" % (cpumask_hex(mask, nr_cpus), cpumask_list(mask)))


def proc_pid_status(m: SeqFile, v: Any) -> int | None:
    """Errors: ESRCH."""
    task = seq_task(m)
    mm = get_task_mm(task)
    seq_puts(m, b"Name:\t")
    seq_puts(m, proc_task_name(task, True))
    seq_putc(m, b"\n")
    task_state(m, task)
    if mm is not None:
        task_mem(m, mm)
        seq_puts(m, b"CoreDumping:\t%d\nTHP_enabled:\t%d\n" % (mm.core_state is not None, not mm.thp_disabled))
    task_sig(m, task)
    task_cap(m, task)
    task_seccomp(m, task)
    task_cpus_allowed(m, task)
    nodes = cpuset_mems_allowed(task)
    seq_puts(m, b"Mems_allowed:\t%b\nMems_allowed_list:\t%b\n" % (
        cpumask_hex(nodes, MAX_NUMNODES), cpumask_list(nodes)))
    task_context_switch_counts(m, task)
    return None


@notrace
def task_context_switch_counts(m: SeqFile, task: TaskStruct) -> None:
    seq_puts(m, b"voluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t%d\n" % (task.nvcsw, task.nivcsw))


# ---- stat ----------------------------------------------------------------------------------------
@notrace
def new_encode_dev(dev: int) -> int:
    major, minor = dev >> 20, dev & 0xFFFFF
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def do_task_stat(m: SeqFile, whole: bool) -> None:
    """One line of 52 fields, proc(5). whole: of the process, else of the thread. Errors: ESRCH."""
    task = seq_task(m)
    permitted = ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS | PTRACE_MODE_NOAUDIT)
    mm = get_task_mm(task)
    signal = task.signal
    tty = signal.tty
    alive = task.sighand is not None
    tty_nr = tty_pgrp = 0
    if alive and tty is not None:
        tty_pgrp = pid_vnr(tty.pgrp) if tty.pgrp is not None else -1
        tty_nr = new_encode_dev(tty.devt)
    elif alive:
        tty_pgrp = -1
    eip = esp = 0
    if permitted and mm is not None and task.flags & (PF_EXITING | PF_DUMPCORE) == PF_EXITING | PF_DUMPCORE:
        regs = task.thread.regs
        eip, esp = regs[16], regs[4]
    min_flt, maj_flt = task.min_flt, task.maj_flt
    cmin_flt = cmaj_flt = cutime = cstime = num_threads = 0
    if alive:
        num_threads = signal.nr_threads
        cmin_flt, cmaj_flt = signal.cmin_flt, signal.cmaj_flt
        cutime, cstime = signal.cutime, signal.cstime
        if whole:
            min_flt, maj_flt = signal.min_flt, signal.maj_flt
            for t in signal.threads:
                min_flt += t.min_flt
                maj_flt += t.maj_flt
    if whole and alive:
        utime, stime = thread_group_cputime_adjusted(task)
    else:
        utime, stime = task_cputime_adjusted(task)
    ignored, caught = collect_sigign_sigcatch(task)
    wchan = 0 if whole and num_threads >= 2 else int(permitted and get_wchan(task) is not None)
    rlim = signal.rlim
    seq_put_decimal_ull(m, b"", task_pid_vnr(task))
    seq_puts(m, b" (")
    seq_puts(m, proc_task_name(task, False))
    seq_puts(m, b") ")
    seq_putc(m, get_task_state(task)[:1])
    fields: list[int] = [
        task_ppid_nr(task), pid_vnr(signal.pgrp), pid_vnr(signal.session), tty_nr, tty_pgrp, task.flags,
        min_flt, cmin_flt, maj_flt, cmaj_flt, nsec_to_clock_t(utime), nsec_to_clock_t(stime),
        nsec_to_clock_t(cutime), nsec_to_clock_t(cstime), task.prio - MAX_RT_PRIO, task.static_prio - DEFAULT_PRIO,
        num_threads, 0, nsec_to_clock_t(task.real_start_time), mm.total_vm << 12 if mm else 0,
        get_mm_rss(mm) if mm else 0, rlim[RLIMIT_RSS][0] if rlim else (1 << 64) - 1,
    ]
    if mm is not None and permitted:
        fields += (mm.start_code, mm.end_code, mm.start_stack)
    elif mm is not None:
        fields += (1, 1, 0)
    else:
        fields += (0, 0, 0)
    fields += (esp, eip, task.pending.signal & 0x7FFFFFFF, task.blocked & 0x7FFFFFFF, ignored & 0x7FFFFFFF,
               caught & 0x7FFFFFFF, wchan, 0, 0, task.exit_signal, task.cpu, task.rt_priority, task.policy,
               0, 0, 0)
    if mm is not None and permitted:
        fields += (mm.start_data, mm.end_data, mm.start_brk, mm.arg_start, mm.arg_end, mm.env_start, mm.env_end)
    else:
        fields += (0,) * 7
    fields.append(task.exit_code if permitted else 0)
    seq_puts(m, b"".join([b" %d" % f for f in fields]))
    seq_putc(m, b"\n")


def proc_tid_stat(m: SeqFile, v: Any) -> int | None:
    do_task_stat(m, False)
    return None


def proc_tgid_stat(m: SeqFile, v: Any) -> int | None:
    do_task_stat(m, True)
    return None


def proc_pid_statm(m: SeqFile, v: Any) -> int | None:
    """Seven numbers of pages: size resident shared text lib data dirty. Errors: ESRCH."""
    task = seq_task(m)
    mm = get_task_mm(task)
    size = shared = text = data = resident = 0
    if mm is not None:
        size, shared, text, data, resident = task_statm(mm)
    seq_puts(m, b"%d %d %d %d 0 %d 0\n" % (size, resident, shared, text, data))
    return None
