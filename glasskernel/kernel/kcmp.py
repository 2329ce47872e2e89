"""kcmp(2): do two processes share an object of the kernel?

Linux: kernel/kcmp.c (5.3). Same: types, 0 for the same object. Differs: where Linux orders objects by a
    scrambled address, the order here is that of the pids: it finds duplicates, but is not transitive. Gaps:
    KCMP_EPOLL_TFD (EOPNOTSUPP).
"""
from __future__ import annotations

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_REALCREDS, ptrace_may_access
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EBADF, EINVAL, EOPNOTSUPP, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import notrace, ulong

KCMP_FILE, KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_IO, KCMP_SYSVSEM, KCMP_EPOLL_TFD = range(8)


@notrace
def _file_of(task: TaskStruct, fd: int) -> object:
    table = task.files.fd if task.files is not None else []
    if fd < len(table) and table[fd] is not None:
        return table[fd]
    raise KernelError(EBADF)


@syscall(gaps="KCMP_EPOLL_TFD")
def sys_kcmp(pid1: int, pid2: int, type: int, idx1: ulong, idx2: ulong) -> int:
    """kcmp(2). Errors: ESRCH, EPERM, EBADF, EINVAL, EOPNOTSUPP."""
    task1, task2 = find_task_by_vpid(pid1), find_task_by_vpid(pid2)
    if task1 is None or task2 is None:
        raise KernelError(ESRCH)
    if not (
        ptrace_may_access(task1, PTRACE_MODE_READ_REALCREDS)
        and ptrace_may_access(task2, PTRACE_MODE_READ_REALCREDS)
    ):
        raise KernelError(EPERM)
    a: object
    b: object
    if type == KCMP_FILE:
        a, b = _file_of(task1, idx1), _file_of(task2, idx2)
    elif type == KCMP_VM:
        a, b = task1.mm, task2.mm
    elif type == KCMP_FILES:
        a, b = task1.files, task2.files
    elif type == KCMP_FS:
        a, b = task1.fs, task2.fs
    elif type == KCMP_SIGHAND:
        a, b = task1.sighand, task2.sighand
    elif type == KCMP_SYSVSEM:
        a, b = task1.sysvsem, task2.sysvsem
    elif type == KCMP_IO:
        a = b = current().kernel                 # no io_context: nothing to differ in
    elif type == KCMP_EPOLL_TFD:
        raise KernelError(EOPNOTSUPP)
    else:
        raise KernelError(EINVAL)
    if a is b:
        return 0
    return 1 if (task1.pid, idx1) < (task2.pid, idx2) else 2
