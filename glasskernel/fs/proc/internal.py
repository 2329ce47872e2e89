"""What the files of procfs share: entries and inodes of processes.

Linux: fs/proc/internal.h, include/linux/proc_fs.h (5.3).
Owns: ProcState (Kernel.proc).
Invariants: an entry's name is unique in its parent's `subdir`; inode numbers of entries start at
    PROC_DYNAMIC_FIRST and are never reused.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.types import DentryOperations, FileOperations, InodeOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_PID, Pid, pid_task
from glasskernel.kernel.ptrace_access import ptrace_may_access
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.lib.errno import EACCES, ESRCH, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile, SeqOperations
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct

PROC_SUPER_MAGIC = 0x9FA0
PROC_ROOT_INO = 1
PROC_DYNAMIC_FIRST = 0xF0000000
PROC_UTS_INIT_INO, PROC_USER_INIT_INO, PROC_PID_INIT_INO = 0xEFFFFFFE, 0xEFFFFFFD, 0xEFFFFFFC
PROC_IPC_INIT_INO, PROC_CGROUP_INIT_INO = 0xEFFFFFFF, 0xEFFFFFFB
HIDEPID_OFF, HIDEPID_NO_ACCESS, HIDEPID_INVISIBLE = 0, 1, 2


@slotted
class ProcDirEntry:
    """struct proc_dir_entry: a file, directory or link that does not belong to a process.

    Exactly one of these makes a file: fops; seq_ops; single_show. subdir: a directory's entries.
    link: a symlink's text. data: the owner's.
    """

    name: bytes
    mode: int
    low_ino: int
    parent: ProcDirEntry | None = None
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    size: int = 0
    data: Any = None
    subdir: dict[bytes, ProcDirEntry] | None = None
    link: bytes | None = None
    fops: FileOperations | None = None
    seq_ops: SeqOperations | None = None
    single_show: Callable[[SeqFile, Any], int | None] | None = None
    write: Callable[[ProcDirEntry, bytes], None] | None = None
    proc_iops: InodeOperations | None = None
    proc_dir_ops: FileOperations | None = None
    proc_dops: DentryOperations | None = None
    gone: bool = False


@slotted
class ProcState:
    """Kernel.proc. fill: makes the files that no driver or file system adds, for the first who looks.

    pid_lookup, pid_readdir, tgid_count: base.py's, there when the files are.
    """

    root: ProcDirEntry
    fill: Callable[[], None] | None = None
    pid_lookup: Callable[[Inode, Dentry], Dentry | None] = None                # type: ignore[assignment]
    pid_readdir: Callable[[File, DirContext], None] = None                     # type: ignore[assignment]
    tgid_count: Callable[[Kernel], int] = None                                 # type: ignore[assignment]
    last_ino: int = PROC_DYNAMIC_FIRST - 1
    self_inum: int = 0
    thread_self_inum: int = 0
    pid_mounts: list[SuperBlock] = field(default_factory=list)      # mounted instances, to be flushed of dead pids
    nsfs_mnt: Any = None                                            # Mount of nsfs, made by the first who looks
    sys_table: Any = None                                           # proc_sysctl.CtlDir


@slotted
class ProcFsInfo:
    """struct pid_namespace's part: sb.s_fs_info. hide_pid: the mount option hidepid, pid_gid: gid.

    pid_ns: whose processes it shows, with a reference; None: everybody (the initial namespace).
    """

    hide_pid: int = HIDEPID_OFF
    pid_gid: int = 0
    pid_ns: Any = None


@slotted
class ProcInode:
    """struct proc_inode: inode.i_private of everything below /proc/PID.

    pid: whose; fd: of fd/ and fdinfo/; get_link, show, ns: what the file does (union proc_op).
    """

    pid: Pid
    fd: int = -1
    get_link: Any = None
    show: Any = None
    ns: Any = None
    entry: Any = None


@slotted
class MountsPoll:
    """struct proc_mounts's event half."""

    event: int = 0
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)


# ---- tasks ---------------------------------------------------------------------------------------
@notrace
def proc_pid(inode: Inode) -> Pid:
    info: ProcInode = inode.i_private
    return info.pid


@notrace
def get_proc_task(inode: Inode) -> TaskStruct | None:
    """The task of an inode below /proc/PID; None once it was reaped."""
    return pid_task(inode.i_private.pid, PIDTYPE_PID)


@notrace
def proc_task(inode: Inode) -> TaskStruct:
    """get_proc_task() where a missing task is an error. Errors: ESRCH."""
    task = pid_task(inode.i_private.pid, PIDTYPE_PID)
    if task is None:
        raise KernelError(ESRCH)
    return task


@notrace
def get_task_mm(task: TaskStruct) -> MmStruct | None:
    """The address space, if the task has one of its own."""
    return None if task.flags & PF_KTHREAD else task.mm


@notrace
def seq_task(m: SeqFile) -> TaskStruct:
    """The task of a seq_file opened on a file of /proc/PID. Errors: ESRCH."""
    return proc_task(m.file.f_inode)


# ---- who may look --------------------------------------------------------------------------------
def mm_access(task: TaskStruct, mode: int) -> MmStruct | None:
    """The task's address space for reading its contents. Errors: EACCES."""
    mm = get_task_mm(task)
    if mm is not None and mm is not current().mm and not ptrace_may_access(task, mode):
        raise KernelError(EACCES)
    return mm


@notrace
def proc_state(kernel: Kernel) -> ProcState:
    state: ProcState = kernel.proc
    return state


@notrace
def filled_proc(kernel: Kernel) -> ProcState:
    """Kernel.proc, with all its files."""
    state: ProcState = kernel.proc
    fill, state.fill = state.fill, None
    if fill is not None:
        fill()
    return state
