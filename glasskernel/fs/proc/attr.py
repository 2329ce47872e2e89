"""/proc/PID/attr: labels that a security module gives a process.

Linux: the attr part of fs/proc/base.c (5.3). Same: a process may write its own only, in one piece, at position 0.
    Differs: the directory exists while a security module is on. Owns: nothing. Context: task; may sleep.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.proc.internal import get_proc_task
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EACCES, EBUSY, EINVAL, ESRCH, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.types import Kiocb
    from glasskernel.mm.iov_iter import IovIter

_PAGE_SIZE = 4096


@may_sleep
def proc_pid_attr_read(iocb: Kiocb, to: IovIter) -> int:
    """The label. Raises ESRCH, EINVAL, EACCES."""
    file = iocb.ki_filp
    task = get_proc_task(file.f_inode)
    if task is None:
        raise KernelError(ESRCH)
    return simple_read_from_buffer(to, iocb, task.kernel.lsm.security_getprocattr(task, file.f_path.dentry.d_name))


@may_sleep
def proc_pid_attr_write(iocb: Kiocb, source: IovIter) -> int:
    """Sets it. Raises ESRCH, EACCES (another's), EBUSY (with other credentials than its own), EINVAL, EPERM."""
    file = iocb.ki_filp
    task = get_proc_task(file.f_inode)
    if task is None:
        raise KernelError(ESRCH)
    if task is not current():
        raise KernelError(EACCES)
    if task.cred is not task.real_cred:
        raise KernelError(EBUSY)
    if iocb.ki_pos:
        raise KernelError(EINVAL)
    data = source.copy_from_iter(min(source.count, _PAGE_SIZE))
    task.kernel.lsm.security_setprocattr(file.f_path.dentry.d_name, data)
    return len(data)


proc_pid_attr_operations = FileOperations(
    read_iter=proc_pid_attr_read, write_iter=proc_pid_attr_write, llseek=generic_file_llseek)
