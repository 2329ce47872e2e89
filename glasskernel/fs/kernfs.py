"""kernfs: trees of named kernel objects as a file system. sysfs and cgroups stand on it.

Linux: fs/kernfs/{dir,file,inode,symlink,mount}.c (5.3). Same: nodes exist without inodes; inodes and dentries
    come with the first lookup and are dropped by d_revalidate when the node has gone; relative link texts.
Differs: names in a directory are listed in the order in which they were made (Linux: by hash).
Owns: every KernfsNode.
Invariants: a node with `gone` set is in no parent; parent.children[name] is the node otherwise.
Gaps: namespaces of nodes (network classes), mmap and poll of attributes, extended attributes.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_add, d_make_root, d_set_d_op, d_splice_alias
from glasskernel.fs.inode import iget_locked, unlock_new_inode
from glasskernel.fs.libfs import generic_read_dir, simple_statfs
from glasskernel.fs.namei import generic_permission
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_lseek, seq_open, seq_read, seq_release
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import (
    DCACHE_NEED_AUTOMOUNT,
    DT_DIR,
    DT_LNK,
    DT_REG,
    FMODE_READ,
    FMODE_WRITE,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    DentryOperations,
    FileOperations,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EACCES, EEXIST, EINVAL, ENODEV, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Iattr, Inode, Kiocb, Kstat, Mount, Path, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter


@slotted(frozen=True)
class KernfsOps:
    """struct kernfs_ops. seq_show(m, v): m.private is the node. write(node, data, offset) -> bytes taken."""

    seq_show: Callable[[SeqFile, Any], int | None] | None = None
    write: Callable[[KernfsNode, bytes, int], int] | None = None


@slotted(frozen=True)
class KernfsSyscallOps:
    """struct kernfs_syscall_ops: what users may do to the tree itself. mkdir(parent, name, mode), rmdir(kn),
    rename(kn, new_parent, new_name); all may sleep, and raise KernelError.
    """

    mkdir: Callable[[KernfsNode, bytes, int], None]
    rmdir: Callable[[KernfsNode], None]
    rename: Callable[[KernfsNode, KernfsNode, bytes], None] | None = None


@slotted
class KernfsNode:
    """struct kernfs_node: a directory (children), a link (target) or a file (ops). priv: the owner's."""

    root: KernfsRoot
    parent: KernfsNode | None
    name: bytes
    mode: int
    ino: int
    time_ns: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    children: dict[bytes, KernfsNode] | None = None
    target: KernfsNode | None = None
    ops: KernfsOps | None = None
    priv: Any = None
    gone: bool = False
    populate: Callable[[KernfsNode], None] | None = None          # makes the children, for the first who looks
    automount: Callable[[Path], Mount | None] | None = None       # of a directory: mounts there when it is entered


@slotted
class KernfsRoot:
    """struct kernfs_root. kn: the top directory. syscall_ops: None: users cannot make directories (sysfs)."""

    kernel: Kernel
    last_ino: int = 0
    syscall_ops: KernfsSyscallOps | None = None
    kn: KernfsNode = None  # type: ignore[assignment]
    supers: list[SuperBlock] = field(default_factory=list)


# ---- the tree ------------------------------------------------------------------------------------
def kernfs_create_root(kernel: Kernel, priv: Any, scops: KernfsSyscallOps | None = None) -> KernfsRoot:
    """An empty tree."""
    root = KernfsRoot(kernel)
    root.syscall_ops = scops
    root.kn = kernfs_new_node(root, None, b"", S_IFDIR | 0o755)
    root.kn.children = {}
    root.kn.priv = priv
    return root


@notrace
def kernfs_new_node(root: KernfsRoot, parent: KernfsNode | None, name: bytes, mode: int) -> KernfsNode:
    root.last_ino += 1
    return KernfsNode(root, parent, name, mode, root.last_ino, ktime_get_real())


@notrace
def kernfs_add_one(parent: KernfsNode, kn: KernfsNode) -> KernfsNode:
    assert parent.children is not None
    if kn.name in parent.children:
        raise KernelError(EEXIST)
    parent.children[kn.name] = kn
    return kn


@notrace
def kernfs_create_dir(parent: KernfsNode, name: bytes, mode: int, priv: Any) -> KernfsNode:
    """A directory. Errors: EEXIST."""
    kn = kernfs_new_node(parent.root, parent, name, S_IFDIR | mode)
    kn.children = {}
    kn.priv = priv
    return kernfs_add_one(parent, kn)


def __kernfs_create_file(parent: KernfsNode, name: bytes, mode: int, size: int, ops: KernfsOps,
                         priv: Any) -> KernfsNode:
    """A file of `size` bytes (as stat shows it). Errors: EEXIST."""
    kn = kernfs_new_node(parent.root, parent, name, S_IFREG | mode)
    kn.size = size
    kn.ops = ops
    kn.priv = priv
    return kernfs_add_one(parent, kn)


def kernfs_create_link(parent: KernfsNode, name: bytes, target: KernfsNode) -> KernfsNode:
    """A symlink to another node of the tree. Errors: EEXIST."""
    kn = kernfs_new_node(parent.root, parent, name, S_IFLNK | 0o777)
    kn.target = target
    return kernfs_add_one(parent, kn)


@notrace
def kernfs_populate(kn: KernfsNode) -> None:
    """Directories that few programs read are filled when somebody does."""
    populate, kn.populate = kn.populate, None
    if populate is not None:
        populate(kn)


@notrace
def kernfs_find_and_get(parent: KernfsNode, name: bytes) -> KernfsNode | None:
    """The child of that name."""
    if parent.populate is not None:
        kernfs_populate(parent)
    return parent.children.get(name) if parent.children else None


def kernfs_remove(kn: KernfsNode) -> None:
    """Takes a node and all below it away. Open files of it fail with ENODEV."""
    kn.gone = True
    for child in list((kn.children or {}).values()):
        kernfs_remove(child)
    parent = kn.parent
    if parent is not None and parent.children is not None:
        parent.children.pop(kn.name, None)


def kernfs_rename_ns(kn: KernfsNode, new_parent: KernfsNode, new_name: bytes) -> None:
    """Moves a node. Errors: EEXIST."""
    assert new_parent.children is not None
    if new_name in new_parent.children:
        raise KernelError(EEXIST)
    if kn.parent is not None and kn.parent.children is not None:
        del kn.parent.children[kn.name]
    kn.parent = new_parent
    kn.name = new_name
    new_parent.children[new_name] = kn


@notrace
def kernfs_path(kn: KernfsNode) -> bytes:
    """The path from the tree's top: b"/a/b"."""
    parts = []
    while kn.parent is not None:
        parts.append(kn.name)
        kn = kn.parent
    return b"/" + b"/".join(reversed(parts))


@notrace
def kernfs_get_target_path(kn: KernfsNode, target: KernfsNode) -> bytes:
    """The text of a link: `..` up to the common directory, then down to the target."""
    above = []
    node: KernfsNode | None = target
    while node is not None:
        above.append(node)
        node = node.parent
    ups = 0
    base = kn.parent
    while base is not None and base not in above:
        ups += 1
        base = base.parent
    down = [n.name for n in above[: above.index(base)]] if base is not None else []
    return b"../" * ups + b"/".join(reversed(down))


# ---- inodes --------------------------------------------------------------------------------------
def kernfs_refresh_inode(kn: KernfsNode, inode: Inode) -> None:
    """The node is the truth; it can have changed since."""
    inode.i_mode = kn.mode
    inode.i_uid = kn.uid
    inode.i_gid = kn.gid
    if kn.children is not None:
        if kn.populate is not None:
            kernfs_populate(kn)
        inode.i_nlink = 2 + sum(c.children is not None for c in kn.children.values())


@notrace
def kernfs_init_inode(kn: KernfsNode, inode: Inode) -> None:
    inode.i_private = kn
    inode.i_atime = inode.i_mtime = inode.i_ctime = kn.time_ns
    inode.i_size = kn.size
    kernfs_refresh_inode(kn, inode)
    kind = kn.mode & S_IFMT
    if kind == S_IFDIR:
        inode.i_op = kernfs_dir_iops
        inode.i_fop = kernfs_dir_fops
    elif kind == S_IFLNK:
        inode.i_op = kernfs_symlink_iops
    else:
        inode.i_op = kernfs_iops
        inode.i_fop = kernfs_file_fops
    unlock_new_inode(inode)


def kernfs_get_inode(sb: SuperBlock, kn: KernfsNode) -> Inode:
    """The inode of a node, with a reference."""
    inode = iget_locked(sb, kn.ino)
    if inode.i_private is not kn:
        kernfs_init_inode(kn, inode)
    return inode


def kernfs_iop_permission(inode: Inode, mask: int) -> None:
    """Errors: EACCES."""
    kernfs_refresh_inode(inode.i_private, inode)
    generic_permission(inode, mask)


def kernfs_iop_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    kernfs_refresh_inode(inode.i_private, inode)
    return generic_fillattr(inode)


def kernfs_iop_setattr(dentry: Dentry, iattr: Iattr) -> None:
    """chmod and chown stay with the node. Errors: EPERM."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, iattr)
    setattr_copy(inode, iattr)
    kn: KernfsNode = inode.i_private
    kn.mode = inode.i_mode
    kn.uid = inode.i_uid
    kn.gid = inode.i_gid


# ---- directories ---------------------------------------------------------------------------------
def kernfs_iop_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """A miss is cached; d_revalidate asks again."""
    parent: KernfsNode = dir.i_private
    kn = kernfs_find_and_get(parent, dentry.d_name)
    if kn is None:
        d_add(dentry, None)
        return None
    if kn.automount is not None:
        d_set_d_op(dentry, DentryOperations(d_revalidate=kernfs_dop_revalidate, d_automount=kn.automount))
        dentry.d_flags |= DCACHE_NEED_AUTOMOUNT
    return d_splice_alias(kernfs_get_inode(dir.i_sb, kn), dentry)


def kernfs_dop_revalidate(dentry: Dentry) -> bool:
    """False once the node has gone or moved, or now that there is one."""
    parent = dentry.d_parent.d_inode
    if dentry.d_parent is dentry or parent is None:
        return True
    now = kernfs_find_and_get(parent.i_private, dentry.d_name)
    inode = dentry.d_inode
    return now is (inode.i_private if inode is not None else None)


def kernfs_fop_readdir(file: File, ctx: DirContext) -> None:
    kn: KernfsNode = file.f_inode.i_private
    if kn.populate is not None:
        kernfs_populate(kn)
    if ctx.pos == 0 or file.private_data is None:
        file.private_data = list((kn.children or {}).values())
    if ctx.pos == 0:
        if not ctx.emit(b".", kn.ino, DT_DIR):
            return
        ctx.pos = 1
    if ctx.pos == 1:
        if not ctx.emit(b"..", (kn.parent or kn).ino, DT_DIR):
            return
        ctx.pos = 2
    nodes = file.private_data
    while ctx.pos - 2 < len(nodes):
        child: KernfsNode = nodes[ctx.pos - 2]
        kind = DT_REG if child.ops is not None else DT_LNK if child.target is not None else DT_DIR
        if not child.gone and not ctx.emit(child.name, child.ino, kind):
            return
        ctx.pos += 1


@may_sleep
def kernfs_iop_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """Errors: EPERM where the tree is the kernel's, those of the owner."""
    parent: KernfsNode = dir.i_private
    scops = parent.root.syscall_ops
    if scops is None:
        raise KernelError(EPERM)
    scops.mkdir(parent, dentry.d_name, mode)


@may_sleep
def kernfs_iop_rmdir(dir: Inode, dentry: Dentry) -> None:
    """Errors: EPERM where the tree is the kernel's, those of the owner."""
    assert dentry.d_inode is not None
    kn: KernfsNode = dentry.d_inode.i_private
    scops = kn.root.syscall_ops
    if scops is None:
        raise KernelError(EPERM)
    scops.rmdir(kn)


@may_sleep
def kernfs_iop_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """Errors: EINVAL (flags), EPERM where the tree is the kernel's, those of the owner."""
    assert old_dentry.d_inode is not None
    if flags:
        raise KernelError(EINVAL)
    kn: KernfsNode = old_dentry.d_inode.i_private
    scops = kn.root.syscall_ops
    if scops is None or scops.rename is None:
        raise KernelError(EPERM)
    scops.rename(kn, new_dir.i_private, new_dentry.d_name)


def kernfs_iop_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    kn: KernfsNode = inode.i_private
    assert kn.target is not None
    return kernfs_get_target_path(kn, kn.target)


# ---- files ---------------------------------------------------------------------------------------
def kernfs_seq_start(m: SeqFile) -> Any:
    """Errors: ENODEV if the node has gone."""
    if m.private.gone:
        raise KernelError(ENODEV)
    return m if m.index == 0 else None


def kernfs_seq_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return None


def kernfs_seq_show(m: SeqFile, v: Any) -> int | None:
    kn: KernfsNode = m.private
    assert kn.ops is not None and kn.ops.seq_show is not None
    return kn.ops.seq_show(m, v)


kernfs_seq_ops = SeqOperations(kernfs_seq_start, kernfs_seq_next, kernfs_seq_show)


def kernfs_fop_open(inode: Inode, file: File) -> None:
    """Errors: EACCES for reading what has no text or writing what takes none, whoever asks; ENODEV."""
    kn: KernfsNode = inode.i_private
    if kn.gone:
        raise KernelError(ENODEV)
    ops = kn.ops
    assert ops is not None
    if file.f_mode & FMODE_WRITE and (not kn.mode & 0o222 or ops.write is None):
        raise KernelError(EACCES)
    if file.f_mode & FMODE_READ and (not kn.mode & 0o444 or ops.seq_show is None):
        raise KernelError(EACCES)
    seq_open(file, kernfs_seq_ops).private = kn


def kernfs_fop_read(iocb: Kiocb, to: IovIter) -> int:
    """Errors: ENODEV, those of the attribute."""
    return seq_read(iocb, to)


def kernfs_fop_write(iocb: Kiocb, source: IovIter) -> int:
    """One write(2) is one value; at most a page. Errors: EFAULT, ENODEV, those of the attribute."""
    kn: KernfsNode = iocb.ki_filp.private_data.private
    data = source.copy_from_iter(min(source.count, 4096))
    if kn.gone:
        raise KernelError(ENODEV)
    assert kn.ops is not None and kn.ops.write is not None
    done = kn.ops.write(kn, data, iocb.ki_pos)
    iocb.ki_pos += done
    return done


def kernfs_fop_release(inode: Inode, file: File) -> None:
    seq_release(inode, file)


# ---- mounting ------------------------------------------------------------------------------------
def kernfs_fill_super(sb: SuperBlock, root: KernfsRoot, magic: int) -> None:
    """Makes sb a view of the tree."""
    sb.s_magic = magic
    sb.s_op = kernfs_sops
    sb.s_d_op = kernfs_dops
    sb.s_fs_info = root
    root.supers.append(sb)
    sb.s_root = d_make_root(kernfs_get_inode(sb, root.kn))


def kernfs_put_super(sb: SuperBlock) -> None:
    """The last mount is gone; the tree stays."""
    root: KernfsRoot = sb.s_fs_info
    root.supers.remove(sb)


kernfs_dir_iops = InodeOperations(
    lookup=kernfs_iop_lookup, permission=kernfs_iop_permission, getattr=kernfs_iop_getattr,
    setattr=kernfs_iop_setattr, mkdir=kernfs_iop_mkdir, rmdir=kernfs_iop_rmdir, rename=kernfs_iop_rename,
)
kernfs_symlink_iops = InodeOperations(
    get_link=kernfs_iop_get_link, permission=kernfs_iop_permission, getattr=kernfs_iop_getattr,
    setattr=kernfs_iop_setattr,
)
kernfs_iops = InodeOperations(
    permission=kernfs_iop_permission, getattr=kernfs_iop_getattr, setattr=kernfs_iop_setattr,
)
kernfs_dir_fops = FileOperations(
    llseek=generic_file_llseek, read_iter=generic_read_dir, iterate=kernfs_fop_readdir,
)
kernfs_file_fops = FileOperations(
    llseek=seq_lseek, read_iter=kernfs_fop_read, write_iter=kernfs_fop_write, open=kernfs_fop_open,
    release=kernfs_fop_release,
)
kernfs_dops = DentryOperations(d_revalidate=kernfs_dop_revalidate)
kernfs_sops = SuperOperations(statfs=simple_statfs, put_super=kernfs_put_super)
