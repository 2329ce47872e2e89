"""Directories of hostfs: finding, listing, making and removing names.

Linux: fs/hostfs/hostfs_kern.c (5.3). Differs: names are listed in byte order; a policy hides some.
Owns: HostfsSb.inodes. Invariant: one inode for each (st_dev, st_ino) of the host.
    Device nodes and sockets of the host are shown, never opened; a FIFO is a pipe of the guest.
Gaps: RENAME_EXCHANGE, RENAME_WHITEOUT (EINVAL).
"""
from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_instantiate, d_splice_alias
from glasskernel.fs.hostfs.file import (
    hostfs_aops,
    hostfs_file_fops,
    hostfs_fsync,
    hostfs_getattr,
    hostfs_iops,
    hostfs_link_iops,
    hostfs_no_device_fops,
    hostfs_setattr,
)
from glasskernel.fs.hostfs.node import (
    HostfsSb,
    HostNode,
    called,
    change,
    child_path,
    host_file,
    hostfs_sb,
    inode_number,
    node_path,
    refresh,
    reread,
    set_attributes,
)
from glasskernel.fs.hostfs.policy import EVERYTHING, HOST, Rule
from glasskernel.fs.inode import init_special_inode, new_inode
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import (
    DT_DIR,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    FileOperations,
    InodeOperations,
)
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EEXIST, EINVAL, EIO, EPERM, EROFS, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Inode, SuperBlock
    from glasskernel.machine.hostdir import HostFile

RENAME_NOREPLACE = 1


def read_name(inode: Inode, dir: HostNode, name: bytes, st: os.stat_result) -> None:
    """Makes a new inode the one for `name` in `dir`."""
    info = hostfs_sb(inode)
    set_attributes(inode, st, info.host.writable)
    kind = st.st_mode & S_IFMT
    if kind == S_IFREG:
        inode.i_op = hostfs_iops
        inode.i_fop = hostfs_file_fops
        inode.i_mapping.a_ops = hostfs_aops
    elif kind == S_IFDIR:
        inode.i_op = hostfs_dir_iops
        inode.i_fop = hostfs_dir_fops
    elif kind == S_IFLNK:
        inode.i_op = hostfs_link_iops
    else:
        init_special_inode(inode, st.st_mode, st.st_rdev)
        inode.i_op = hostfs_iops
        if kind in (S_IFCHR, S_IFBLK):
            inode.i_fop = hostfs_no_device_fops


def hostfs_iget(sb: SuperBlock, dir: HostNode, name: bytes, st: os.stat_result, rule: Rule) -> Inode:
    """The inode of what the host calls `name` in `dir`. It comes with a reference."""
    info: HostfsSb = sb.s_fs_info
    key = (st.st_dev, st.st_ino)
    inode = info.inodes.get(key)
    if inode is not None and (inode.i_mode ^ st.st_mode) & S_IFMT == 0:
        called(inode.i_private, dir, name)
        refresh(inode, st)
        inode.i_count += 1
        return inode
    inode = new_inode(sb)
    inode.i_ino = inode_number(info, key)
    node = HostNode(dir, name, rule, key, (st.st_size, st.st_mtime_ns, st.st_ctime_ns))
    inode.i_private = node
    read_name(inode, dir, name, st)
    info.inodes[key] = inode
    return inode


@notrace
def made_inode(sb: SuperBlock, dir: HostNode | None, name: bytes, rule: Rule) -> Inode:
    """A directory of the policy, which the host need not have."""
    info: HostfsSb = sb.s_fs_info
    node = HostNode(dir, name, rule, None)
    key = node.key = node_path(node)
    inode = info.inodes.get(key)
    if inode is not None:
        inode.i_count += 1
        return inode
    inode = new_inode(sb)
    inode.i_ino = inode_number(info, key)
    inode.i_mode = rule.made
    inode.i_nlink = 2
    inode.i_size = 4096
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    inode.i_private = node
    inode.i_op = hostfs_dir_iops
    inode.i_fop = hostfs_dir_fops
    info.inodes[key] = inode
    return inode


def hostfs_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """Finds a name on the host; what the policy hides is not there. Errors: EACCES, ENAMETOOLONG of the host."""
    node: HostNode = dir.i_private
    info = hostfs_sb(dir)
    name = dentry.d_name
    rule = node.rule.names.get(name)
    inode = None
    if rule is not None and rule.made:
        inode = made_inode(dir.i_sb, node, name, rule)
    elif rule is not None or not node.rule.made:
        try:
            st = info.host.stat(child_path(dir, name))
        except (FileNotFoundError, NotADirectoryError):
            st = None
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if st is not None and info.policy.visible(name, st.st_mode):
            inode = hostfs_iget(dir.i_sb, node, name, st, rule or HOST)
    return d_splice_alias(inode, dentry)


@notrace
def entries_of(dir: Inode) -> list[tuple[bytes, int, int]]:
    """(name, inode number, DT_*) of everything visible, in byte order."""
    node: HostNode = dir.i_private
    info = hostfs_sb(dir)
    path = node_path(node)
    found: list[tuple[bytes, int, int]] = []
    if node.rule.made:
        for name, rule in node.rule.names.items():
            if rule.made:
                found.append((name, inode_number(info, path + (name,)), DT_DIR))
                continue
            try:
                st = info.host.stat(path + (name,))
            except OSError:
                continue
            if info.policy.visible(name, st.st_mode):
                found.append((name, inode_number(info, (st.st_dev, st.st_ino)), st.st_mode >> 12 & 15))
        return found
    check = info.policy is not EVERYTHING
    try:
        dev = info.host.stat(path).st_dev
        for name, ino, kind in info.host.list(path):
            if check and kind != S_IFLNK:
                try:
                    mode = info.host.stat(path + (name,)).st_mode
                except FileNotFoundError:
                    continue
                if not info.policy.visible(name, mode):
                    continue
            found.append((name, inode_number(info, (dev, ino)), kind >> 12 & 15))
    except OSError as e:
        raise KernelError(e.errno or EIO) from None
    return found


def hostfs_readdir(file: File, ctx: DirContext) -> None:
    """The names as they were when the directory was last read from its start."""
    dir = file.f_inode
    if ctx.pos == 0 or file.private_data is None:
        file.private_data = entries_of(dir)
    if ctx.pos == 0:
        if not ctx.emit(b".", dir.i_ino, DT_DIR):
            return
        ctx.pos = 1
    if ctx.pos == 1:
        parent = file.f_path.dentry.d_parent.d_inode
        if not ctx.emit(b"..", parent.i_ino if parent else dir.i_ino, DT_DIR):
            return
        ctx.pos = 2
    entries = file.private_data
    while ctx.pos - 2 < len(entries):
        name, ino, kind = entries[ctx.pos - 2]
        if not ctx.emit(name, ino, kind):
            return
        ctx.pos += 1


@notrace
def _appear(dir: Inode, dentry: Dentry) -> Inode:
    """After a name was made: its inode goes to the dentry, the directory's times are read again."""
    info = hostfs_sb(dir)
    st = change(dir, info.host.stat, child_path(dir, dentry.d_name))
    inode = hostfs_iget(dir.i_sb, dir.i_private, dentry.d_name, st, HOST)
    d_instantiate(dentry, inode)
    reread(dir)
    return inode


def hostfs_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """A new empty file. Errors: EEXIST, ENOSPC, EACCES ... of the host."""
    file: HostFile = change(dir, hostfs_sb(dir).host.create, child_path(dir, dentry.d_name), mode)
    node: HostNode = _appear(dir, dentry).i_private
    if node.file is not None:
        node.file.close()
    node.file = file


def hostfs_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    change(dir, hostfs_sb(dir).host.mkdir, child_path(dir, dentry.d_name), mode)
    _appear(dir, dentry)


def hostfs_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """Only FIFOs (and files): a device node must not come to be on the host. Errors: EPERM."""
    kind = mode & S_IFMT
    if kind == S_IFREG:
        hostfs_create(dir, dentry, mode)
        return
    if kind != S_IFIFO:
        raise KernelError(EPERM)
    change(dir, hostfs_sb(dir).host.mkfifo, child_path(dir, dentry.d_name), mode)
    _appear(dir, dentry)


def hostfs_symlink(dir: Inode, dentry: Dentry, text: bytes) -> None:
    change(dir, hostfs_sb(dir).host.symlink, child_path(dir, dentry.d_name), text)
    _appear(dir, dentry)


def hostfs_link(old_dentry: Dentry, dir: Inode, dentry: Dentry) -> None:
    old = old_dentry.d_inode
    assert old is not None
    change(dir, hostfs_sb(dir).host.link, node_path(old.i_private), child_path(dir, dentry.d_name))
    _appear(dir, dentry)


@notrace
def _keep_open(inode: Inode) -> None:
    """Before a name goes: a file that is still in use must have its descriptor, it cannot be opened again."""
    if inode.i_mode & S_IFMT == S_IFREG and (inode.i_count > 1 or inode.i_mapping.pages):
        with contextlib.suppress(KernelError, OSError):
            host_file(inode).fd()


@notrace
def _disappeared(inode: Inode, dentry: Dentry) -> None:
    """One name is gone: the node goes by another one, or the host may use its number again."""
    node: HostNode = inode.i_private
    inode.i_nlink = max(inode.i_nlink - 1, 0)
    if not inode.i_nlink:
        if node.file is not None:
            node.file.unlinked = True
        info = hostfs_sb(inode)
        info.inodes.pop(node.key, None)
        info.numbers.pop(node.key, None)
        return
    for alias in inode.i_dentry:
        parent = alias.d_parent.d_inode
        if alias is not dentry and alias.d_hashed and parent is not None:
            called(node, parent.i_private, alias.d_name)
            return


def hostfs_unlink(dir: Inode, dentry: Dentry) -> None:
    inode = dentry.d_inode
    assert inode is not None
    _keep_open(inode)
    change(dir, hostfs_sb(dir).host.unlink, child_path(dir, dentry.d_name))
    _disappeared(inode, dentry)
    reread(dir)


def hostfs_rmdir(dir: Inode, dentry: Dentry) -> None:
    inode = dentry.d_inode
    assert inode is not None
    change(dir, hostfs_sb(dir).host.rmdir, child_path(dir, dentry.d_name))
    inode.i_nlink = 0
    _disappeared(inode, dentry)
    reread(dir)


def hostfs_rename2(old_dir: Inode, old: Dentry, new_dir: Inode, new: Dentry, flags: int) -> None:
    """Errors: EINVAL for flags other than RENAME_NOREPLACE."""
    if flags & ~RENAME_NOREPLACE:
        raise KernelError(EINVAL)
    if new_dir.i_private.rule.made:
        raise KernelError(EROFS)
    inode, target = old.d_inode, new.d_inode
    assert inode is not None
    host = hostfs_sb(old_dir).host
    to = child_path(new_dir, new.d_name)
    if flags & RENAME_NOREPLACE:
        try:
            host.stat(to)
        except OSError:
            pass
        else:
            raise KernelError(EEXIST)
    if target is not None and target is not inode:
        _keep_open(target)
    change(old_dir, host.rename, child_path(old_dir, old.d_name), to)
    if target is inode:
        return                              # two links of one file: rename(2) does nothing
    if target is not None:
        _disappeared(target, new)
    node: HostNode = inode.i_private
    node.parent = new_dir.i_private
    node.name = new.d_name
    for moved in hostfs_sb(old_dir).inodes.values():       # open files at or below the old name
        file = moved.i_private.file
        if file is not None and not file.unlinked:
            file.path = node_path(moved.i_private)
    reread(old_dir)
    reread(new_dir)


hostfs_dir_iops = InodeOperations(
    lookup=hostfs_lookup, create=hostfs_create, link=hostfs_link, unlink=hostfs_unlink, symlink=hostfs_symlink,
    mkdir=hostfs_mkdir, rmdir=hostfs_rmdir, mknod=hostfs_mknod, rename=hostfs_rename2, getattr=hostfs_getattr,
    setattr=hostfs_setattr,
)
hostfs_dir_fops = FileOperations(
    llseek=generic_file_llseek, read_iter=generic_read_dir, iterate=hostfs_readdir, fsync=hostfs_fsync,
)
