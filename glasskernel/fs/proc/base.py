"""/proc/PID: the list of its files, lookup and listing of processes and threads.

Linux: fs/proc/base.c (5.3). Same: names, modes, order of the entries; /proc/TID can be opened but is not
    listed.
Owns: nothing; the tables at the end say what there is. The files themselves are in pid_files.py, array.py,
    task_mmu.py, fd.py, mounts.py, namespaces.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import glasskernel.fs.proc.pid_files as f
from glasskernel.fs.dcache import d_invalidate, d_lookup, dput
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.array import proc_pid_statm, proc_pid_status, proc_tgid_stat, proc_tid_stat
from glasskernel.fs.proc.attr import proc_pid_attr_operations
from glasskernel.fs.proc.fd import (
    PROC_FD_MODE,
    pid_emit_dots,
    proc_fd_inode_operations,
    proc_fd_operations,
    proc_fdinfo_inode_operations,
    proc_fdinfo_operations,
)
from glasskernel.fs.proc.internal import HIDEPID_INVISIBLE, get_proc_task, proc_pid
from glasskernel.fs.proc.map_files import proc_map_files_inode_operations, proc_map_files_operations
from glasskernel.fs.proc.mounts import (
    proc_mountinfo_operations,
    proc_mounts_operations,
    proc_mountstats_operations,
)
from glasskernel.fs.proc.namespaces import proc_ns_dir_inode_operations, proc_ns_dir_operations
from glasskernel.fs.proc.numa_maps import proc_pid_numa_maps_operations
from glasskernel.fs.proc.pid_dentry import (
    has_pid_permissions,
    instantiated,
    name_to_int,
    pid_dentry_operations,
    pid_getattr,
    proc_fill_cache,
    proc_pid_make_inode,
    proc_pid_permission,
    proc_setattr,
)
from glasskernel.fs.proc.pid_link import (
    proc_cwd_link,
    proc_exe_link,
    proc_pid_link_inode_operations,
    proc_root_link,
)
from glasskernel.fs.proc.proc_net import proc_net_inode_operations, proc_net_operations
from glasskernel.fs.proc.task_mmu import (
    proc_clear_refs_operations,
    proc_pagemap_operations,
    proc_pid_maps_operations,
    proc_pid_smaps_operations,
    proc_pid_smaps_rollup_operations,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import seq_lseek, seq_read, single_open, single_release
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import (
    S_IFDIR,
    S_IFLNK,
    S_IFREG,
    FileOperations,
    InodeOperations,
)
from glasskernel.kernel.pid import (
    PIDTYPE_PID,
    PIDTYPE_TGID,
    find_ge_pid,
    find_pid_ns,
    pid_nr_ns,
    pid_task,
)
from glasskernel.lib.errno import EBADF, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, Kstat, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.pid import Pid
    from glasskernel.kernel.task import TaskStruct

FIRST_PROCESS_ENTRY = 256

# struct pid_entry: (name, mode, inode operations, file operations, union proc_op)
PidEntry = tuple[bytes, int, InodeOperations | None, FileOperations | None, Any]


# ---- one entry of a process ----------------------------------------------------------------------
def proc_single_show(m: Any, v: Any) -> int | None:
    """Files whose text one function makes (ONE)."""
    show = m.file.f_inode.i_private.show
    result: int | None = show(m, v)
    return result


def proc_single_open(inode: Inode, file: File) -> None:
    single_open(file, proc_single_show, inode)


proc_single_file_operations = FileOperations(
    open=proc_single_open, read_iter=seq_read, llseek=seq_lseek, release=single_release,
)


def proc_pident_instantiate(dentry: Dentry, task: TaskStruct, p: PidEntry) -> Dentry | None:
    """The inode of one entry of the tables below."""
    _, mode, iop, fop, op = p
    inode = proc_pid_make_inode(dentry.d_sb, task, mode)
    if mode & 0o170000 == S_IFDIR:
        inode.i_nlink = 2
    if iop is not None:
        inode.i_op = iop
    else:
        inode.i_op = proc_def_inode_operations
    if fop is not None:
        inode.i_fop = fop
    if mode & 0o170000 == S_IFLNK:
        inode.i_private.get_link = op
    else:
        inode.i_private.show = op
    return instantiated(dentry, inode, pid_dentry_operations)


def proc_pident_lookup(dir: Inode, dentry: Dentry, entries: dict[bytes, PidEntry]) -> Dentry | None:
    """Errors: ENOENT."""
    task = get_proc_task(dir)
    p = entries.get(dentry.d_name)
    if task is None or p is None:
        raise KernelError(ENOENT)
    return proc_pident_instantiate(dentry, task, p)


def proc_pident_readdir(file: File, ctx: DirContext, entries: list[PidEntry]) -> None:
    """Errors: ENOENT once the process is gone."""
    task = get_proc_task(file.f_inode)
    if task is None:
        raise KernelError(ENOENT)
    if not pid_emit_dots(file, ctx):
        return
    while ctx.pos - 2 < len(entries):
        p = entries[ctx.pos - 2]
        if not proc_fill_cache(file, ctx, p[0], proc_pident_instantiate, task, p):
            return
        ctx.pos += 1


proc_def_inode_operations = InodeOperations(setattr=proc_setattr)


# ---- processes -----------------------------------------------------------------------------------
def proc_tgid_base_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    return proc_pident_lookup(dir, dentry, _tgid_base if dir.i_security is None else _tgid_base_lsm)


def proc_tgid_base_readdir(file: File, ctx: DirContext) -> None:
    proc_pident_readdir(file, ctx, tgid_base_stuff if file.f_security is None else tgid_base_stuff_lsm)


def proc_pid_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFDIR | 0o555)
    inode.i_op = proc_tgid_base_inode_operations
    inode.i_fop = proc_tgid_base_operations
    inode.i_nlink = nlink_tgid + (inode.i_security is not None)
    return instantiated(dentry, inode, pid_dentry_operations)


@notrace
def pid_ns_of(sb: SuperBlock) -> Any:
    """proc_pid_ns(): whose numbers are shown."""
    return sb.s_fs_info.pid_ns


@notrace
def task_of_name(dentry: Dentry) -> TaskStruct | None:
    """The thread with the number that is the name."""
    number, sb = name_to_int(dentry.d_name), dentry.d_sb
    return pid_task(find_pid_ns(number, sb.kernel, pid_ns_of(sb)), PIDTYPE_PID) if number else None


def proc_pid_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """/proc/NUMBER. Errors: ENOENT."""
    task = task_of_name(dentry)
    if task is None:
        raise KernelError(ENOENT)
    return proc_pid_instantiate(dentry, task, None)


def next_tgid(kernel: Kernel, tgid: int, ns: Any) -> tuple[int, TaskStruct] | None:
    """The process with the smallest number >= tgid."""
    while True:
        pid = find_ge_pid(tgid, kernel, ns)
        if pid is None:
            return None
        task = pid_task(pid, PIDTYPE_TGID)
        number = pid_nr_ns(pid, ns)
        if task is not None:
            return number, task
        tgid = number + 1


def proc_pid_readdir(file: File, ctx: DirContext) -> None:
    """self, thread-self, then processes by number; position = number + 256 + 2."""
    sb = file.f_inode.i_sb
    kernel = sb.kernel
    tgid = max(ctx.pos - FIRST_PROCESS_ENTRY - 2, 1)
    while True:
        found = next_tgid(kernel, tgid, pid_ns_of(sb))
        if found is None:
            break
        tgid, task = found
        ctx.pos = tgid + FIRST_PROCESS_ENTRY + 2
        if has_pid_permissions(sb, task, HIDEPID_INVISIBLE) and not proc_fill_cache(
                file, ctx, b"%d" % tgid, proc_pid_instantiate, task, None):
            return
        tgid += 1
    ctx.pos = (1 << 22) + FIRST_PROCESS_ENTRY + 3


@notrace
def proc_tgid_count(kernel: Kernel) -> int:
    """How many processes there are."""
    return len(kernel.pids.tasks)


# ---- threads -------------------------------------------------------------------------------------
def proc_tid_base_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    return proc_pident_lookup(dir, dentry, _tid_base if dir.i_security is None else _tid_base_lsm)


def proc_tid_base_readdir(file: File, ctx: DirContext) -> None:
    proc_pident_readdir(file, ctx, tid_base_stuff if file.f_security is None else tid_base_stuff_lsm)


def proc_task_instantiate(dentry: Dentry, task: TaskStruct, ptr: Any) -> Dentry | None:
    inode = proc_pid_make_inode(dentry.d_sb, task, S_IFDIR | 0o555)
    inode.i_op = proc_tid_base_inode_operations
    inode.i_fop = proc_tid_base_operations
    inode.i_nlink = nlink_tid + (inode.i_security is not None)
    return instantiated(dentry, inode, pid_dentry_operations)


def proc_task_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """/proc/PID/task/TID. Errors: ENOENT."""
    leader = get_proc_task(dir)
    task = task_of_name(dentry)
    if leader is None or task is None or task.tgid != leader.tgid:
        raise KernelError(ENOENT)
    return proc_task_instantiate(dentry, task, None)


def proc_task_readdir(file: File, ctx: DirContext) -> None:
    """Threads in the order of their birth. Errors: ENOENT."""
    leader = get_proc_task(file.f_inode)
    if leader is None:
        raise KernelError(ENOENT)
    if not pid_emit_dots(file, ctx):
        return
    threads = list(leader.signal.threads) if leader.sighand is not None else []
    while ctx.pos - 2 < len(threads):
        task = threads[ctx.pos - 2]
        name = b"%d" % pid_nr_ns(task.thread_pid, pid_ns_of(file.f_inode.i_sb))
        if not proc_fill_cache(file, ctx, name, proc_task_instantiate, task, None):
            return
        ctx.pos += 1


def proc_task_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """The link count says how many threads there are."""
    stat = generic_fillattr(inode)
    task = get_proc_task(inode)
    if task is not None:
        stat.nlink += task.signal.nr_threads
    return stat


def proc_flush_task(task: TaskStruct) -> None:
    """release_task(): nothing of a reaped process stays in the dentry cache of /proc."""
    for sb in task.kernel.proc.pid_mounts:
        root = sb.s_root
        if root is None:
            continue
        ns = pid_ns_of(sb)
        name = b"%d" % pid_nr_ns(task.thread_pid, ns)
        dentry = d_lookup(root, name)
        if dentry is not None:
            d_invalidate(dentry)
            dput(dentry)
        if task.pid != task.tgid:
            leader = d_lookup(root, b"%d" % pid_nr_ns(task.group_leader.thread_pid, ns))
            if leader is not None:
                threads = d_lookup(leader, b"task")
                if threads is not None:
                    dentry = d_lookup(threads, name)
                    if dentry is not None:
                        d_invalidate(dentry)
                        dput(dentry)
                    dput(threads)
                dput(leader)


# ---- labels ---------------------------------------------------------------------------------------
def proc_attr_dir_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """/proc/PID/attr/NAME. Errors: ENOENT."""
    return proc_pident_lookup(dir, dentry, _attr_dir)


def proc_attr_dir_readdir(file: File, ctx: DirContext) -> None:
    proc_pident_readdir(file, ctx, attr_dir_stuff)


# ---- tables --------------------------------------------------------------------------------------
@notrace
def DIR(name: bytes, mode: int, iop: InodeOperations, fop: FileOperations) -> PidEntry:
    return (name, S_IFDIR | mode, iop, fop, None)


@notrace
def LNK(name: bytes, get_link: Any) -> PidEntry:
    return (name, S_IFLNK | 0o777, proc_pid_link_inode_operations, None, get_link)


@notrace
def REG(name: bytes, mode: int, fop: FileOperations) -> PidEntry:
    return (name, S_IFREG | mode, None, fop, None)


@notrace
def ONE(name: bytes, mode: int, show: Any) -> PidEntry:
    return (name, S_IFREG | mode, None, proc_single_file_operations, show)


proc_task_inode_operations = InodeOperations(
    lookup=proc_task_lookup, getattr=proc_task_getattr, setattr=proc_setattr, permission=proc_pid_permission,
)
proc_task_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_task_readdir, llseek=generic_file_llseek,
)
proc_tgid_base_inode_operations = InodeOperations(
    lookup=proc_tgid_base_lookup, getattr=pid_getattr, setattr=proc_setattr, permission=proc_pid_permission,
)
proc_tgid_base_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_tgid_base_readdir, llseek=generic_file_llseek,
)
proc_tid_base_inode_operations = InodeOperations(
    lookup=proc_tid_base_lookup, getattr=pid_getattr, setattr=proc_setattr,
)
proc_tid_base_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_tid_base_readdir, llseek=generic_file_llseek,
)


def tgid_pidfd_to_pid(file: File) -> Pid:
    """The process whose open /proc/PID this is. Raises EBADF."""
    if file.f_op is not proc_tgid_base_operations:
        raise KernelError(EBADF)
    return proc_pid(file.f_inode)


tgid_base_stuff: list[PidEntry] = [
    DIR(b"task", 0o555, proc_task_inode_operations, proc_task_operations),
    (b"fd", PROC_FD_MODE, proc_fd_inode_operations, proc_fd_operations, None),
    DIR(b"map_files", 0o500, proc_map_files_inode_operations, proc_map_files_operations),
    (b"fdinfo", PROC_FD_MODE, proc_fdinfo_inode_operations, proc_fdinfo_operations, None),
    DIR(b"ns", 0o511, proc_ns_dir_inode_operations, proc_ns_dir_operations),
    DIR(b"net", 0o555, proc_net_inode_operations, proc_net_operations),
    REG(b"environ", 0o400, f.proc_environ_operations),
    REG(b"auxv", 0o400, f.proc_auxv_operations),
    ONE(b"status", 0o444, proc_pid_status),
    ONE(b"personality", 0o400, f.proc_pid_personality),
    ONE(b"limits", 0o444, f.proc_pid_limits),
    REG(b"sched", 0o644, f.proc_pid_sched_operations),
    REG(b"autogroup", 0o644, f.proc_pid_sched_autogroup_operations),
    REG(b"comm", 0o644, f.proc_pid_set_comm_operations),
    ONE(b"syscall", 0o400, f.proc_pid_syscall),
    REG(b"cmdline", 0o444, f.proc_pid_cmdline_ops),
    ONE(b"stat", 0o444, proc_tgid_stat),
    ONE(b"statm", 0o444, proc_pid_statm),
    REG(b"maps", 0o444, proc_pid_maps_operations),
    REG(b"numa_maps", 0o444, proc_pid_numa_maps_operations),
    REG(b"mem", 0o600, f.proc_mem_operations),
    LNK(b"cwd", proc_cwd_link),
    LNK(b"root", proc_root_link),
    LNK(b"exe", proc_exe_link),
    REG(b"mounts", 0o444, proc_mounts_operations),
    REG(b"mountinfo", 0o444, proc_mountinfo_operations),
    REG(b"mountstats", 0o400, proc_mountstats_operations),
    REG(b"clear_refs", 0o200, proc_clear_refs_operations),
    REG(b"smaps", 0o444, proc_pid_smaps_operations),
    REG(b"smaps_rollup", 0o444, proc_pid_smaps_rollup_operations),
    REG(b"pagemap", 0o400, proc_pagemap_operations),
    ONE(b"wchan", 0o444, f.proc_pid_wchan),
    ONE(b"stack", 0o400, f.proc_pid_stack),
    ONE(b"schedstat", 0o444, f.proc_pid_schedstat),
    ONE(b"cpuset", 0o444, f.proc_cpuset_show),
    ONE(b"cgroup", 0o444, f.proc_cgroup_show),
    ONE(b"oom_score", 0o444, f.proc_oom_score),
    REG(b"oom_adj", 0o644, f.proc_oom_adj_operations),
    REG(b"oom_score_adj", 0o644, f.proc_oom_score_adj_operations),
    REG(b"loginuid", 0o644, f.proc_loginuid_operations),
    REG(b"sessionid", 0o444, f.proc_sessionid_operations),
    ONE(b"io", 0o400, f.proc_tgid_io_accounting),
    REG(b"uid_map", 0o644, f.proc_uid_map_operations),
    REG(b"gid_map", 0o644, f.proc_gid_map_operations),
    REG(b"projid_map", 0o644, f.proc_projid_map_operations),
    REG(b"setgroups", 0o644, f.proc_setgroups_operations),
    REG(b"timers", 0o444, f.proc_timers_operations),
    REG(b"timerslack_ns", 0o666, f.proc_pid_set_timerslack_ns_operations),
]
_NOT_IN_TASK = (b"task", b"map_files", b"mountstats", b"timers", b"timerslack_ns")
tid_base_stuff: list[PidEntry] = [
    ONE(b"stat", 0o444, proc_tid_stat) if p[0] == b"stat"
    else ONE(b"io", 0o400, f.proc_tid_io_accounting) if p[0] == b"io"
    else REG(b"comm", 0o644, f.proc_pid_set_comm_operations) if p[0] == b"comm"
    else p for p in tgid_base_stuff if p[0] not in _NOT_IN_TASK
]
tid_base_stuff.insert([p[0] for p in tid_base_stuff].index(b"maps"), ONE(b"children", 0o444, f.proc_tid_children))
attr_dir_stuff: list[PidEntry] = [
    REG(name, mode, proc_pid_attr_operations) for name, mode in (
        (b"current", 0o666), (b"prev", 0o444), (b"exec", 0o666), (b"fscreate", 0o666), (b"keycreate", 0o666),
        (b"sockcreate", 0o666))
]
_attr = DIR(b"attr", 0o555, InodeOperations(lookup=proc_attr_dir_lookup, getattr=pid_getattr, setattr=proc_setattr),
            FileOperations(read_iter=generic_read_dir, iterate=proc_attr_dir_readdir, llseek=generic_file_llseek))


@notrace
def with_attr(entries: list[PidEntry]) -> list[PidEntry]:
    """The files while a security module is on: attr behind pagemap."""
    index = [p[0] for p in entries].index(b"pagemap") + 1
    return [*entries[:index], _attr, *entries[index:]]


tgid_base_stuff_lsm, tid_base_stuff_lsm = with_attr(tgid_base_stuff), with_attr(tid_base_stuff)
_attr_dir = {p[0]: p for p in attr_dir_stuff}
_tgid_base_lsm = {p[0]: p for p in tgid_base_stuff_lsm}
_tid_base_lsm = {p[0]: p for p in tid_base_stuff_lsm}
_tgid_base = {p[0]: p for p in tgid_base_stuff}
_tid_base = {p[0]: p for p in tid_base_stuff}
nlink_tgid = 2 + sum(p[1] & 0o170000 == S_IFDIR for p in tgid_base_stuff)
nlink_tid = 2 + sum(p[1] & 0o170000 == S_IFDIR for p in tid_base_stuff)
