"""Core dumps: when one is written, where, and what the wait status says.

Linux: fs/coredump.c (5.3). Same: RLIMIT_CORE, dumpable, core_pattern's %-codes, the checks on the file, the
    core bit of the wait status. Differs: the registers of all threads are taken first; then the others end,
    instead of being held inside exit_mm() until the dump is over. Gaps: core_pattern with "|" (no usermode
    helpers: no dump).
Owns: nothing. Context: the dying task; may sleep.
"""
from __future__ import annotations

from glasskernel.fs.binfmt_elf_core import DumpedThread, elf_core_dump, snapshot_thread
from glasskernel.fs.dentry_open import do_truncate
from glasskernel.fs.file_table import fput
from glasskernel.fs.open import filp_open
from glasskernel.fs.types import O_CREAT, O_LARGEFILE, O_NOFOLLOW, O_RDWR, S_IFMT, S_IFREG, File
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import task_pid_vnr, task_tgid_vnr, thread_group_leader
from glasskernel.kernel.sched.core import schedule, set_current_state
from glasskernel.kernel.signal import (
    SIGNAL_GROUP_COREDUMP,
    SIGNAL_GROUP_EXIT,
    __fatal_signal_pending,
    recalc_sigpending,
    signal_group_exit,
    zap_other_threads,
)
from glasskernel.kernel.signal_types import SIGKILL, KernelSiginfo, sigmask
from glasskernel.kernel.task import RLIMIT_CORE, TASK_KILLABLE, TaskStruct
from glasskernel.kernel.time.timekeeping import ktime_get_real_seconds
from glasskernel.lib.errno import EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace

MIN_COREDUMP = 4096
SUID_DUMP_USER = 1


def do_coredump(siginfo: KernelSiginfo) -> None:
    """A process dies of `siginfo`: writes its core file if it may, and settles the group's exit code.

    Afterwards the group is exiting with the signal's number, and 0x80 if a core was written.
    """
    task = current()
    mm = task.mm
    limit = task.signal.rlim[RLIMIT_CORE][0]
    if mm is None or mm.binfmt is None or mm.dumpable != SUID_DUMP_USER or limit < MIN_COREDUMP:
        return
    pattern = task.kernel.sysctl.core_pattern
    if not pattern or pattern.startswith(b"|"):
        return
    threads = coredump_wait(task, siginfo.si_signo)
    if threads is None:
        return                                   # somebody else ends the process already
    dumped = False
    try:
        file = open_core(format_corename(pattern, task, siginfo.si_signo))
        try:
            dumped = elf_core_dump(file, task, siginfo, threads, limit)
        finally:
            fput(file)
    except KernelError:
        pass                                     # no room, no permission: the process just dies
    coredump_finish(task, dumped)


@may_sleep
@notrace
def coredump_wait(task: TaskStruct, exit_code: int) -> list[DumpedThread] | None:
    """Stops the other threads for good and answers what is to be dumped of each thread, ours first."""
    sig = task.signal
    if signal_group_exit(sig):
        return None
    others = [t for t in sig.threads if t is not task and not t.exit_state]
    threads = [snapshot_thread(t, exit_code) for t in (task, *others)]
    sig.flags = SIGNAL_GROUP_COREDUMP
    sig.group_exit_code = exit_code
    sig.group_exit_task = task
    sig.notify_count = zap_other_threads(task)
    if not thread_group_leader(task):
        sig.notify_count -= 1                    # the leader stays as a zombie
    while sig.notify_count > 0 and not __fatal_signal_pending(task):
        set_current_state(TASK_KILLABLE)
        schedule()
    sig.notify_count = 0
    # what woke us is no reason to cut the dump short; only SIGKILL is
    recalc_sigpending()
    return threads


@notrace
def coredump_finish(task: TaskStruct, dumped: bool) -> None:
    sig = task.signal
    if dumped and not task.pending.signal & sigmask(SIGKILL):
        sig.group_exit_code |= 0x80
    sig.group_exit_task = None
    sig.flags = SIGNAL_GROUP_EXIT


@notrace
def format_corename(pattern: bytes, task: TaskStruct, signr: int) -> bytes:
    """core_pattern with its %-codes replaced."""
    cred = task.cred
    words = {
        b"%": b"%", b"p": b"%d" % task_tgid_vnr(task), b"P": b"%d" % task.tgid, b"i": b"%d" % task_pid_vnr(task),
        b"I": b"%d" % task.pid, b"u": b"%d" % cred.uid, b"g": b"%d" % cred.gid,
        b"d": b"%d" % (task.mm.dumpable if task.mm is not None else 0), b"s": b"%d" % signr,
        b"t": b"%d" % ktime_get_real_seconds(), b"h": task.nsproxy.uts_ns.nodename, b"e": task.comm,
        b"c": b"%d" % task.signal.rlim[RLIMIT_CORE][0],
    }
    parts = pattern.split(b"%")
    name = parts[0]
    with_pid = False
    rest = iter(parts[1:])
    for part in rest:
        if not part:                             # "%%", or a single % at the end
            following = next(rest, None)
            if following is None:
                break
            name += b"%" + following
            continue
        code = part[:1]
        with_pid |= code == b"p"
        name += words.get(code, b"").replace(b"/", b"!") + part[1:]
    if not with_pid and task.kernel.sysctl.core_uses_pid:
        name += b".%d" % task.tgid
    return name


@notrace
def open_core(name: bytes) -> File:
    """Opens the file: a new or an own regular one without other names, mode 0600. Raises KernelError."""
    file = filp_open(name, O_CREAT | O_RDWR | O_NOFOLLOW | O_LARGEFILE, 0o600)
    inode = file.f_inode
    if (
        inode.i_nlink != 1
        or inode.i_mode & S_IFMT != S_IFREG
        or inode.i_uid != current().cred.fsuid
        or inode.i_mode & 0o677 != 0o600
    ):
        fput(file)
        raise KernelError(EPERM)                 # nobody sees the number: there is no dump
    do_truncate(file.f_path.dentry, 0, 0, file)
    return file
