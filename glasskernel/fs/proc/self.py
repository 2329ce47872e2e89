"""/proc/self and /proc/thread-self: links to whoever looks.

Linux: fs/proc/self.c, fs/proc/thread_self.c (5.3). Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.generic import proc_symlink
from glasskernel.fs.types import InodeOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import pid_nr_ns
from glasskernel.lib.errno import ENOENT, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode
    from glasskernel.init.kernel import Kernel


def proc_self_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """Errors: ENOENT in a /proc of a PID namespace that the reader is not in."""
    number = pid_nr_ns(current().group_leader.thread_pid, inode.i_sb.s_fs_info.pid_ns)
    if not number:
        raise KernelError(ENOENT)
    return b"%d" % number


def proc_thread_self_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    task = current()
    return b"%b/task/%d" % (proc_self_get_link(dentry, inode), pid_nr_ns(task.thread_pid, inode.i_sb.s_fs_info.pid_ns))


proc_self_inode_operations = InodeOperations(get_link=proc_self_get_link)
proc_thread_self_inode_operations = InodeOperations(get_link=proc_thread_self_get_link)


def proc_self_init(kernel: Kernel) -> None:
    entry = proc_symlink(kernel, b"self", None, b"")
    entry.proc_iops = proc_self_inode_operations
    entry = proc_symlink(kernel, b"thread-self", None, b"")
    entry.proc_iops = proc_thread_self_inode_operations
