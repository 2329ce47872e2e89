"""Programs that the kernel starts by itself: release agents of cgroups.

Linux: kernel/umh.c (5.3). Same: a worker of events_unbound makes the process, with its parent's parent for a parent
    (kthreadd, which ignores how it ends), default signals, nice 0 and the kernel's environment only.
Differs: the caller always waits until the program has been executed (UMH_WAIT_EXEC).
Owns: nothing. Gaps: UMH_WAIT_PROC, UMH_KILLABLE, init() and cleanup(), fork_usermode_blob(), usermodehelper_disabled.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.exec import do_execve_kernel
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.fork import CLONE_PARENT, kernel_thread
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.core import set_user_nice
from glasskernel.kernel.signal import flush_signal_handlers
from glasskernel.kernel.signal_types import SIGCHLD
from glasskernel.kernel.workqueue import WORK_CPU_UNBOUND, WorkStruct, queue_work_on
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from collections.abc import Sequence


@slotted
class SubprocessInfo:
    """struct subprocess_info. retval: errno of the exec, 0: it runs."""

    path: bytes
    argv: Sequence[bytes]
    envp: Sequence[bytes]
    complete: Completion = field(default_factory=Completion)
    retval: int = 0


@may_sleep
def call_usermodehelper(path: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> None:
    """Starts a program as root. Raises what its exec raises, EAGAIN, ENOMEM. Context: task; not of events_unbound."""
    call_usermodehelper_exec(SubprocessInfo(path, argv, envp))


@may_sleep
def call_usermodehelper_exec(sub_info: SubprocessInfo) -> None:
    """Hands it to a worker, and waits until the program runs or cannot."""
    queue_work_on(WORK_CPU_UNBOUND, current().kernel.workqueues.system_unbound_wq,
                  WorkStruct(call_usermodehelper_exec_work, sub_info))
    wait_for_completion(sub_info.complete)
    if sub_info.retval:
        raise KernelError(sub_info.retval)


@may_sleep
def call_usermodehelper_exec_work(work: WorkStruct) -> None:
    """In the worker: makes the process."""
    sub_info: SubprocessInfo = work.data
    try:
        kernel_thread(call_usermodehelper_exec_async, sub_info, CLONE_PARENT | SIGCHLD)
    except KernelError as error:
        sub_info.retval = error.errno
        umh_complete(sub_info)


def umh_complete(sub_info: SubprocessInfo) -> None:
    """Who asked for it may go on."""
    complete(sub_info.complete)


@may_sleep
def call_usermodehelper_exec_async(sub_info: SubprocessInfo) -> int:
    """The process: becomes the program."""
    task = current()
    flush_signal_handlers(task, True)
    set_user_nice(task, 0)
    try:
        do_execve_kernel(sub_info.path, list(sub_info.argv), list(sub_info.envp))
    except KernelError as error:
        sub_info.retval = error.errno
    umh_complete(sub_info)
    if sub_info.retval:
        do_exit(0)
    return 0
