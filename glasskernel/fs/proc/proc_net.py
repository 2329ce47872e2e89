"""/proc/net: the files of the network namespace of whoever looks.

Linux: fs/proc/proc_net.c (5.3). Same: /proc/net is a link to self/net; /proc/PID/net shows the process's namespace;
    nothing of it is kept in the dentry cache, because a process can change its namespace. Differs: a file is made by a
    function that yields its text, all of it at the first read; the first who looks starts the network
    (kernel.start_network).
Owns: Net.proc_net, Net.proc_net_stat.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.generic import (
    __proc_create,
    proc_lookup_de,
    proc_mkdir,
    proc_readdir_de,
    proc_symlink,
    remove_proc_entry,
)
from glasskernel.fs.proc.internal import PROC_DYNAMIC_FIRST, ProcDirEntry, get_proc_task
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import S_IFDIR, S_IFREG, DentryOperations, FileOperations, InodeOperations
from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, Kstat
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net

    Show = Callable[[Net], Iterable[bytes]]


# ---- for the rooms of the network ------------------------------------------------------------------
@notrace
def seq_net_show(m: SeqFile, v: Any) -> int | None:
    """All of a file: the entry's data is (namespace, function)."""
    net, show = m.private
    for text in show(net):
        m.buf += text
    return None


@notrace
def proc_create_net(net: Net, name: bytes, show: Show, mode: int = 0o444) -> ProcDirEntry:
    """A file of /proc/net ("stat/..." too) whose text show(net) yields. Errors: EEXIST."""
    return proc_create_net_data(net, name, mode, show)


def proc_create_net_data(net: Net, name: bytes, mode: int, show: Show) -> ProcDirEntry:
    """The same: Linux's proc_create_net() is a macro."""
    if net.proc_net is None:
        proc_net_ns_init(net)
    ent = __proc_create(net.kernel, name, S_IFREG | mode, net.proc_net)
    ent.single_show = seq_net_show
    ent.data = net, show
    ent.proc_dops = proc_net_dentry_ops
    return ent


@notrace
def proc_remove_net(net: Net, name: bytes) -> None:
    """Takes a file of proc_create_net() away."""
    remove_proc_entry(net.kernel, name, net.proc_net)


def proc_net_ns_init(net: Net) -> None:
    """The namespace's directory, with an empty stat/; made at the latest by its first file."""
    if net.proc_net is not None:
        return
    state = net.kernel.proc
    state.last_ino += 1
    assert state.last_ino > PROC_DYNAMIC_FIRST
    net.proc_net = ProcDirEntry(b"net", S_IFDIR | 0o555, state.last_ino, nlink=2, subdir={})
    net.proc_net_stat = proc_mkdir(net.kernel, b"stat", net.proc_net)
    net.proc_net_stat.proc_dops = proc_net_dentry_ops


def proc_net_ns_exit(net: Net) -> None:
    """The namespace is gone. Files that are open stay readable."""
    remove_proc_entry(net.kernel, b"stat", net.proc_net)
    net.proc_net = net.proc_net_stat = None


# ---- /proc/PID/net ---------------------------------------------------------------------------------
@notrace
def get_proc_task_net(dir: Inode) -> Net | None:
    """The network namespace of a process; None once it is gone. Context: task; may sleep."""
    task = get_proc_task(dir)
    proxy = None if task is None else task.nsproxy
    if proxy is None:
        return None
    state = dir.i_sb.kernel.start_network()
    net: Net = proxy.net_ns or state.init_net
    return net


def proc_net_d_revalidate(dentry: Dentry) -> bool:
    return False


def proc_tgid_net_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Errors: ENOENT."""
    net = get_proc_task_net(dir)
    if net is None or net.proc_net is None:
        raise KernelError(ENOENT)
    return proc_lookup_de(dir, dentry, net.proc_net)


def proc_tgid_net_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    net = get_proc_task_net(inode)
    stat = generic_fillattr(inode)
    if net is not None and net.proc_net is not None:
        stat.nlink = net.proc_net.nlink
    return stat


def proc_tgid_net_readdir(file: File, ctx: DirContext) -> None:
    """Errors: EINVAL once the process is gone."""
    net = get_proc_task_net(file.f_inode)
    if net is None or net.proc_net is None:
        raise KernelError(EINVAL)
    proc_readdir_de(file, ctx, net.proc_net)


proc_net_dentry_ops = DentryOperations(d_revalidate=proc_net_d_revalidate)
proc_net_inode_operations = InodeOperations(lookup=proc_tgid_net_lookup, getattr=proc_tgid_net_getattr)
proc_net_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_tgid_net_readdir, llseek=generic_file_llseek,
)


def proc_net_init(kernel: Kernel) -> None:
    proc_symlink(kernel, b"net", None, b"self/net")
