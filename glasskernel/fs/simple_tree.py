"""Trees of files that the kernel makes: what debugfs and tracefs have in common.

Linux: fs/debugfs/inode.c, fs/tracefs/inode.c (5.3), which are twins. Same: i_private of a file is its creator's; a
    file has file_operations of its own; uid=, gid= and mode= of the top directory.
Differs: nodes exist without inodes and dentries, which come with the first lookup; a directory can fill itself when
    somebody looks into it first (`fill`), so that thousands of event files cost nothing until then. Names are
    listed newest first.
Owns: every TreeNode.
Invariants: a node with `gone` set is in no parent; parent.children[name] is the node otherwise.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_add, d_make_root, d_set_d_op, d_splice_alias
from glasskernel.fs.inode import iget_locked, unlock_new_inode
from glasskernel.fs.libfs import generic_read_dir, simple_statfs
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import (
    DCACHE_NEED_AUTOMOUNT,
    DT_DIR,
    DT_LNK,
    DT_REG,
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
from glasskernel.lib.errno import EEXIST, EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Iattr, Inode, Mount, Path, SuperBlock
    from glasskernel.init.kernel import Kernel


@slotted
class Tree:
    """A tree. root: its top directory. data: the file system's."""

    kernel: Kernel
    magic: int
    root: TreeNode = None  # type: ignore[assignment]
    last_ino: int = 0


@slotted
class TreeNode:
    """A directory (children), a symlink (target) or a file (fops). data: a file's i_private.

    fill(node): makes the children, once. mkdir(name), rmdir(name): what users may do in it. automount(path): see namei.
    """

    tree: Tree
    parent: TreeNode | None
    name: bytes
    mode: int
    ino: int
    time_ns: int
    uid: int = 0
    gid: int = 0
    children: dict[bytes, TreeNode] | None = None
    target: bytes | None = None
    fops: FileOperations | None = None
    data: Any = None
    fill: Callable[[TreeNode], None] | None = None
    mkdir: Callable[[bytes], None] | None = None
    rmdir: Callable[[bytes], None] | None = None
    automount: Callable[[Path], Mount] | None = None
    gone: bool = False
    subtrees: int = 0            # child directories, for st_nlink


@notrace
def simple_tree(kernel: Kernel, magic: int, mode: int) -> Tree:
    """An empty tree."""
    tree = Tree(kernel, magic)
    tree.root = _new_node(tree, None, b"", S_IFDIR | mode)
    tree.root.children = {}
    return tree


@notrace
def _new_node(tree: Tree, parent: TreeNode | None, name: bytes, mode: int) -> TreeNode:
    tree.last_ino += 1
    return TreeNode(tree, parent, name, mode, tree.last_ino, ktime_get_real())


@notrace
def _add(parent: TreeNode, node: TreeNode) -> TreeNode:
    assert parent.children is not None
    if node.name in parent.children:
        raise KernelError(EEXIST)
    parent.children[node.name] = node
    return node


@notrace
def tree_create_dir(parent: TreeNode, name: bytes, mode: int, fill: Callable[[TreeNode],
                                                                             None] | None = None) -> TreeNode:
    """A directory. Errors: EEXIST."""
    node = _new_node(parent.tree, parent, name, S_IFDIR | mode)
    node.children, node.fill = {}, fill
    _add(parent, node)
    parent.subtrees += 1
    return node


@notrace
def tree_create_file(parent: TreeNode, name: bytes, mode: int, data: Any, fops: FileOperations) -> TreeNode:
    """A file. Errors: EEXIST."""
    node = _new_node(parent.tree, parent, name, S_IFREG | mode)
    node.data, node.fops = data, fops
    return _add(parent, node)


@notrace
def tree_create_symlink(parent: TreeNode, name: bytes, target: bytes) -> TreeNode:
    """A symlink. Errors: EEXIST."""
    node = _new_node(parent.tree, parent, name, S_IFLNK | 0o777)
    node.target = target
    return _add(parent, node)


@notrace
def tree_remove(node: TreeNode) -> None:
    """Takes a node and all below it away. Open files stay usable."""
    node.gone = True
    for child in list((node.children or {}).values()):
        tree_remove(child)
    parent = node.parent
    if parent is not None and parent.children is not None and parent.children.pop(node.name, None) is not None:
        parent.subtrees -= node.children is not None


@notrace
def tree_children(node: TreeNode) -> dict[bytes, TreeNode]:
    """A directory's children, made now if nobody has looked before."""
    fill, node.fill = node.fill, None
    if fill is not None:
        fill(node)
    assert node.children is not None
    return node.children


# ---- inodes ------------------------------------------------------------------------------------------------------
@notrace
def tree_get_inode(sb: SuperBlock, node: TreeNode) -> Inode:
    """The inode of a node, with a reference."""
    inode = iget_locked(sb, node.ino)
    if inode.i_op is None or not inode.i_mode:
        inode.i_mode, inode.i_uid, inode.i_gid = node.mode, node.uid, node.gid
        inode.i_atime = inode.i_mtime = inode.i_ctime = node.time_ns
        kind = node.mode & S_IFMT
        if kind == S_IFDIR:
            inode.i_private = node
            inode.i_op, inode.i_fop = tree_dir_inode_operations, tree_dir_operations
        elif kind == S_IFLNK:
            inode.i_op, inode.i_link = tree_symlink_inode_operations, node.target
        else:
            assert node.fops is not None
            inode.i_op, inode.i_fop, inode.i_private = tree_file_inode_operations, node.fops, node.data
        unlock_new_inode(inode)
    if node.children is not None:
        inode.i_nlink = 2 + node.subtrees
    return inode


@may_sleep
@notrace
def tree_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """->lookup()"""
    node = tree_children(dir.i_private).get(dentry.d_name)
    if node is None:
        d_add(dentry, None)
        return None
    dentry.d_fsdata = node
    if node.automount is not None:
        d_set_d_op(dentry, tree_automount_dentry_operations)
        dentry.d_flags |= DCACHE_NEED_AUTOMOUNT
    return d_splice_alias(tree_get_inode(dir.i_sb, node), dentry)


@notrace
def tree_revalidate(dentry: Dentry) -> bool:
    """->d_revalidate(): False once the node has gone, or now that there is one."""
    parent = dentry.d_parent.d_inode
    if dentry.d_parent is dentry or parent is None:
        return True
    return tree_children(parent.i_private).get(dentry.d_name) is dentry.d_fsdata


@may_sleep
@notrace
def tree_automount(path: Path) -> Mount:
    """->d_automount()"""
    node: TreeNode = path.dentry.d_fsdata
    assert node.automount is not None
    return node.automount(path)


@notrace
def tree_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr(): stays with the node."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, attr)
    setattr_copy(inode, attr)
    node: TreeNode = dentry.d_fsdata if dentry.d_parent is not dentry else inode.i_private
    node.mode, node.uid, node.gid = inode.i_mode, inode.i_uid, inode.i_gid


@may_sleep
@notrace
def tree_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir(), where the directory allows it. Errors: EPERM, those of the owner."""
    node: TreeNode = dir.i_private
    if node.mkdir is None:
        raise KernelError(1)                      # EPERM
    node.mkdir(dentry.d_name)
    child = tree_children(node)[dentry.d_name]
    dentry.d_fsdata = child
    d_splice_alias(tree_get_inode(dir.i_sb, child), dentry)


@may_sleep
@notrace
def tree_rmdir(dir: Inode, dentry: Dentry) -> None:
    """->rmdir(), with everything below. Errors: EPERM, those of the owner."""
    node: TreeNode = dir.i_private
    if node.rmdir is None:
        raise KernelError(1)                      # EPERM
    node.rmdir(dentry.d_name)


@notrace
def tree_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    assert inode.i_link is not None
    return inode.i_link


@may_sleep
@notrace
def tree_readdir(file: File, ctx: DirContext) -> None:
    """->iterate()"""
    node: TreeNode = file.f_inode.i_private
    if ctx.pos == 0 or file.private_data is None:
        file.private_data = list(reversed(tree_children(node).values()))
    if ctx.pos == 0:
        if not ctx.emit(b".", node.ino, DT_DIR):
            return
        ctx.pos = 1
    if ctx.pos == 1:
        if not ctx.emit(b"..", (node.parent or node).ino, DT_DIR):
            return
        ctx.pos = 2
    nodes = file.private_data
    while ctx.pos - 2 < len(nodes):
        child: TreeNode = nodes[ctx.pos - 2]
        kind = DT_DIR if child.children is not None else DT_LNK if child.target is not None else DT_REG
        if not child.gone and not ctx.emit(child.name, child.ino, kind):
            return
        ctx.pos += 1


# ---- mounting ----------------------------------------------------------------------------------------------------
@notrace
def tree_parse_options(tree: Tree, data: bytes) -> None:
    """uid=, gid=, mode= of the top directory. Errors: EINVAL."""
    for option in data.split(b","):
        key, _, value = option.partition(b"=")
        try:
            if key == b"mode":
                tree.root.mode = S_IFDIR | int(value, 8) & 0o7777
            elif key == b"uid":
                tree.root.uid = int(value)
            elif key == b"gid":
                tree.root.gid = int(value)
            elif key:
                raise KernelError(EINVAL)
        except ValueError:
            raise KernelError(EINVAL) from None


@notrace
def tree_show_options(dentry: Dentry) -> bytes:
    """->show_options()"""
    root = dentry.d_sb.s_fs_info.root
    text = b"".join(b",%b=%d" % (name, value) for name, value in ((b"uid", root.uid), (b"gid", root.gid)) if value)
    return text + (b",mode=%o" % (root.mode & 0o7777) if root.mode & 0o7777 != 0o700 else b"")


@notrace
def tree_fill_super(sb: SuperBlock, tree: Tree, data: bytes) -> None:
    """Makes sb a view of the tree."""
    tree_parse_options(tree, data)
    sb.s_magic, sb.s_op, sb.s_d_op, sb.s_fs_info = tree.magic, tree_super_operations, tree_dentry_operations, tree
    sb.s_root = d_make_root(tree_get_inode(sb, tree.root))


tree_dir_inode_operations = InodeOperations(lookup=tree_lookup, mkdir=tree_mkdir, rmdir=tree_rmdir,
                                            setattr=tree_setattr)
tree_file_inode_operations = InodeOperations(setattr=tree_setattr)
tree_symlink_inode_operations = InodeOperations(get_link=tree_get_link, setattr=tree_setattr)
tree_dir_operations = FileOperations(llseek=generic_file_llseek, read_iter=generic_read_dir, iterate=tree_readdir)
tree_dentry_operations = DentryOperations(d_revalidate=tree_revalidate)
tree_automount_dentry_operations = DentryOperations(d_revalidate=tree_revalidate, d_automount=tree_automount)
tree_super_operations = SuperOperations(statfs=simple_statfs, show_options=tree_show_options)
