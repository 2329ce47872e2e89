"""/proc/sys: variables of the kernel as files.

Linux: fs/proc/proc_sysctl.c, the proc_do* handlers of kernel/sysctl.c (5.3). Same: modes, formats, limits,
    writes only at offset 0 (sysctl_writes_strict). Differs: a table entry names its variable by functions
    that get and set.
Owns: Kernel.proc.sys_table. Invariant: an entry stands for a variable that something reads.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.dcache import d_splice_alias
from glasskernel.fs.inode import get_next_ino, new_inode
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.proc.generic import proc_mkdir
from glasskernel.fs.proc.internal import filled_proc
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import (
    DT_DIR,
    DT_REG,
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    S_IFDIR,
    S_IFREG,
    DentryOperations,
    FileOperations,
    InodeOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EACCES, EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

Getter = Callable[["Kernel"], bytes]
Setter = Callable[["Kernel", bytes], None]


@slotted(frozen=True)
class CtlTable:
    """struct ctl_table. get(kernel) -> text without newline. set(kernel, text): None: read-only."""

    procname: bytes
    mode: int
    get: Getter
    set: Setter | None = None


@slotted
class CtlDir:
    """struct ctl_dir. net: the network namespace that sees it; None: everybody does. redirect(kernel): whoever looks
    finds that directory instead (/proc/sys/net is that of one's own namespace)."""

    entries: dict[bytes, CtlTable | CtlDir] = field(default_factory=dict)
    net: Any = None
    redirect: Callable[[Kernel], CtlDir] | None = None


# ---- handlers ------------------------------------------------------------------------------------
@notrace
def numbers(text: bytes) -> list[int]:
    """Decimal, octal (0...) and hexadecimal (0x...) words. Errors: EINVAL."""
    found = []
    for word in text.split():
        try:
            octal = len(word) > 1 and word[:1] == b"0" and word[1:].isdigit()
            found.append(int(word, 8) if octal else int(word, 0))
        except ValueError:
            raise KernelError(EINVAL) from None
    return found


@notrace
def integer(name: bytes, mode: int, owner: Callable[[Kernel], Any], attribute: str, low: int = -(1 << 31),
            high: int = (1 << 31) - 1) -> CtlTable:
    """proc_dointvec_minmax(): one int attribute of an object of the kernel."""
    def get(kernel: Kernel) -> bytes:
        return b"%d" % getattr(owner(kernel), attribute)

    def set(kernel: Kernel, text: bytes) -> None:
        values = numbers(text)
        if not values:
            return
        if not low <= values[0] <= high:
            raise KernelError(EINVAL)
        setattr(owner(kernel), attribute, values[0])

    return CtlTable(name, mode, get, set if mode & 0o222 else None)


@notrace
def string(name: bytes, mode: int, owner: Callable[[Kernel], Any], attribute: str, size: int) -> CtlTable:
    """proc_dostring(): the first line, cut to size - 1 bytes."""
    def get(kernel: Kernel) -> bytes:
        value: bytes = getattr(owner(kernel), attribute)
        return value

    def set(kernel: Kernel, text: bytes) -> None:
        setattr(owner(kernel), attribute, text.split(b"\0")[0].split(b"\n")[0][: size - 1])

    return CtlTable(name, mode, get, set if mode & 0o222 else None)


# ---- registering ---------------------------------------------------------------------------------
def register_sysctl(kernel: Kernel, path: bytes, table: list[CtlTable]) -> None:
    """Adds files to a directory below /proc/sys ("net/core"), which is made if it is missing."""
    __register_sysctl_table(filled_proc(kernel).sys_table, path, table)


def __register_sysctl_table(dir: CtlDir, path: bytes, table: list[CtlTable]) -> None:
    """The same below a directory of a set of tables."""
    for name in path.split(b"/"):
        child = dir.entries.get(name)
        if child is None:
            child = dir.entries[name] = CtlDir()
        assert isinstance(child, CtlDir)
        dir = child
    for entry in table:
        assert entry.procname not in dir.entries, entry.procname
        dir.entries[entry.procname] = entry


# ---- inodes --------------------------------------------------------------------------------------
@notrace
def _node(inode: Inode) -> CtlTable | CtlDir:
    node: CtlTable | CtlDir = inode.i_private
    return node if isinstance(node, (CtlTable, CtlDir)) else inode.i_sb.kernel.proc.sys_table


def proc_sys_make_inode(dir: Inode, node: CtlTable | CtlDir) -> Inode:
    inode = new_inode(dir.i_sb)
    inode.i_ino = get_next_ino()
    inode.i_private = node
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    if isinstance(node, CtlDir):
        inode.i_mode = S_IFDIR | 0o555
        inode.i_op = proc_sys_dir_inode_operations
        inode.i_fop = proc_sys_dir_file_operations
    else:
        inode.i_mode = S_IFREG | node.mode
        inode.i_op = proc_sys_inode_operations
        inode.i_fop = proc_sys_file_operations
    return inode


def proc_sys_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Errors: ENOENT."""
    node = _node(dir)
    assert isinstance(node, CtlDir)
    found = node.entries.get(dentry.d_name)
    if found is None:
        raise KernelError(ENOENT)
    if isinstance(found, CtlDir) and found.redirect is not None:
        found = found.redirect(dir.i_sb.kernel)
    dentry.d_op = proc_sys_dentry_operations
    return d_splice_alias(proc_sys_make_inode(dir, found), dentry)


def proc_sys_readdir(file: File, ctx: DirContext) -> None:
    inode = file.f_inode
    node = _node(inode)
    assert isinstance(node, CtlDir)
    if ctx.pos == 0:
        if not ctx.emit(b".", inode.i_ino, DT_DIR):
            return
        ctx.pos = 1
    if ctx.pos == 1:
        parent = file.f_path.dentry.d_parent.d_inode
        if not ctx.emit(b"..", parent.i_ino if parent else inode.i_ino, DT_DIR):
            return
        ctx.pos = 2
    for name in sorted(node.entries)[ctx.pos - 2 :]:
        kind = DT_DIR if isinstance(node.entries[name], CtlDir) else DT_REG
        if not ctx.emit(name, 1 + ctx.pos, kind):
            return
        ctx.pos += 1


def sysctl_perm(mode: int, mask: int) -> bool:
    """Root has the owner's bits, everybody else the others': capabilities do not help."""
    cred = current().cred
    if cred.euid == 0:
        mode >>= 6
    elif cred.egid == 0 or 0 in cred.groups:
        mode >>= 3
    return not mask & ~mode & (MAY_READ | MAY_WRITE | MAY_EXEC)


def proc_sys_permission(inode: Inode, mask: int) -> None:
    """Errors: EACCES."""
    node = _node(inode)
    if isinstance(node, CtlDir):
        allowed = not mask & MAY_WRITE
    elif mask & MAY_EXEC:
        allowed = False
    else:
        allowed = sysctl_perm(node.mode, mask)
    if not allowed:
        raise KernelError(EACCES)


# ---- files ---------------------------------------------------------------------------------------
def proc_sys_call_handler(iocb: Kiocb, it: IovIter, write: bool) -> int:
    """Errors: EPERM by mode, EINVAL for a read-only entry or a bad value."""
    node = _node(iocb.ki_filp.f_inode)
    assert isinstance(node, CtlTable)
    if not sysctl_perm(node.mode, MAY_WRITE if write else MAY_READ):
        raise KernelError(EPERM)
    kernel = current().kernel
    if not write:
        if iocb.ki_pos:
            return 0
        text = node.get(kernel) + b"\n"
        done = it.copy_to_iter(text[: it.count])
        iocb.ki_pos += done
        return done
    if node.set is None:
        raise KernelError(EINVAL)
    count = it.count
    data = it.copy_from_iter(min(count, 4096))
    if not iocb.ki_pos:                     # sysctl_writes_strict
        node.set(kernel, data)
    iocb.ki_pos += count
    return count


def proc_sys_read(iocb: Kiocb, to: IovIter) -> int:
    return proc_sys_call_handler(iocb, to, False)


def proc_sys_write(iocb: Kiocb, source: IovIter) -> int:
    return proc_sys_call_handler(iocb, source, True)


def proc_sys_revalidate(dentry: Dentry) -> bool:
    """False for the files of another network namespace."""
    inode = dentry.d_inode
    node = None if inode is None else inode.i_private
    if not isinstance(node, CtlDir) or node.net is None:
        return True
    net = current().nsproxy.net_ns
    return node.net is (net or current().kernel.start_network().init_net)


@notrace
def net_ctl_lookup(kernel: Kernel) -> CtlDir:
    """What is in /proc/sys/net for the running task: the first who looks starts the network."""
    net = current().nsproxy.net_ns or kernel.start_network().init_net
    sysctls: CtlDir = net.sysctls
    return sysctls


proc_sys_dentry_operations = DentryOperations(d_revalidate=proc_sys_revalidate)
proc_sys_file_operations = FileOperations(
    read_iter=proc_sys_read, write_iter=proc_sys_write, llseek=generic_file_llseek,
)
proc_sys_dir_file_operations = FileOperations(
    read_iter=generic_read_dir, iterate=proc_sys_readdir, llseek=generic_file_llseek,
)
proc_sys_inode_operations = InodeOperations(permission=proc_sys_permission)
proc_sys_dir_inode_operations = InodeOperations(lookup=proc_sys_lookup, permission=proc_sys_permission)


def proc_sys_init(kernel: Kernel) -> None:
    """/proc/sys, empty; register_sysctl() fills it."""
    root = proc_mkdir(kernel, b"sys")
    root.proc_iops = proc_sys_dir_inode_operations
    root.proc_dir_ops = proc_sys_dir_file_operations
    root.nlink = 1
    kernel.proc.sys_table = CtlDir({b"net": CtlDir(redirect=net_ctl_lookup)})
