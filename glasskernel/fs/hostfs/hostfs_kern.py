"""hostfs: directories of the host as a file system of the guest.

Linux: fs/hostfs/hostfs_kern.c (5.3). Same: names, page cache filled by readpage from the host file.
    Differs: only what the user lent can be mounted (`mount -t hostfs TAG DIR` knows tags, not host paths);
        a policy hides names.
Owns: Kernel.hostfs, every HostNode.
Invariants: inode numbers are given in the order in which the guest meets (st_dev, st_ino), so they do not
    tell the host's. One inode for each pair. Device nodes and sockets of the host are shown, never opened;
    a FIFO is a pipe of the guest. A symlink's text is resolved inside the guest.
Access: first the guest's checks by mode and owner, then the host's for the user who runs us. Owners and
    set-user-ID bits are never changed on the host.
Gaps: RENAME_EXCHANGE, RENAME_WHITEOUT; extended attributes; inotify events for changes made by the host.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_add, d_instantiate, d_make_root
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.hostfs.policy import EVERYTHING, HOST, Policy, Rule
from glasskernel.fs.inode import init_special_inode, new_inode
from glasskernel.fs.libfs import generic_read_dir
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.super import mount_nodev
from glasskernel.fs.types import (
    ATTR_ATIME,
    ATTR_GID,
    ATTR_MODE,
    ATTR_MTIME,
    ATTR_SIZE,
    ATTR_UID,
    DT_DIR,
    FMODE_WRITE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    SB_RDONLY,
    DentryOperations,
    FileOperations,
    FileSystemType,
    InodeOperations,
    Kstatfs,
    SuperOperations,
)
from glasskernel.lib.errno import EACCES, EEXIST, EINVAL, EIO, ENODEV, ENOENT, EPERM, EROFS, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.hostdir import HostDir, HostFile, Names
from glasskernel.mm.filemap import (
    filemap_write_and_wait,
    filemap_write_and_wait_range,
    generic_file_mmap,
    generic_file_read_iter,
    generic_file_write_iter,
)
from glasskernel.mm.page_alloc import put_page
from glasskernel.mm.page_writeback import __set_page_dirty_nobuffers
from glasskernel.mm.pagemap import PageUptodate, SetPageUptodate, grab_cache_page_write_begin, unlock_page
from glasskernel.mm.truncate import invalidate_mapping_pages, truncate_inode_pages, truncate_setsize
from glasskernel.mm.types import AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Iattr, Inode, Kstat, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace

HOSTFS_SUPER_MAGIC = 0x00C0FFEE
RENAME_NOREPLACE = 1


@dataclass(slots=True, eq=False)
class HostNode:
    """inode.i_private: where this inode is on the host. After a rename, parent and name say the new place.

    key: what makes two names the same inode. stamp: (size, mtime, ctime) when the attributes were last read.
    """

    parent: HostNode | None
    name: bytes
    rule: Rule
    key: Hashable
    stamp: tuple[int, int, int] = (0, 0, 0)
    file: HostFile | None = None


@dataclass(slots=True, eq=False)
class HostfsSb:
    """sb.s_fs_info"""

    host: HostDir
    policy: Policy
    inodes: dict[Hashable, Inode] = field(default_factory=dict)
    numbers: dict[Hashable, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class HostfsState:
    """Kernel.hostfs. shares: tag -> what `mount -t hostfs TAG` mounts."""

    shares: dict[bytes, tuple[HostDir, Policy]] = field(default_factory=dict)


@notrace
def hostfs_share(kernel: Kernel, tag: bytes, host: HostDir, policy: Policy = EVERYTHING) -> None:
    """Lends a host directory to the guest under a name. Mounted read-only unless host.writable."""
    kernel.hostfs.shares[tag] = (host, policy)


@notrace
def hostfs_init(kernel: Kernel) -> None:
    """init_hostfs(): registers the file system type."""
    kernel.hostfs = HostfsState()
    register_filesystem(kernel, hostfs_type)


@notrace
def node_path(node: HostNode) -> Names:
    """The names that lead to a node from the shared directory."""
    names: list[bytes] = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    return tuple(reversed(names))


@notrace
def child_path(dir: Inode, name: bytes) -> Names:
    return node_path(dir.i_private) + (name,)


@notrace
def _sb_of(inode: Inode) -> HostfsSb:
    info: HostfsSb = inode.i_sb.s_fs_info
    return info


@notrace
def _number(info: HostfsSb, key: Hashable) -> int:
    number = info.numbers.get(key)
    if number is None:
        number = info.numbers[key] = len(info.numbers) + 2
    return number


# ---- inodes --------------------------------------------------------------------------------------
@notrace
def set_attributes(inode: Inode, st: os.stat_result, writable: bool) -> None:
    """Takes over what the host says of a file.

    Where the guest cannot write, atime is shown as mtime: the host's changes whenever somebody reads the
    file.
    """
    inode.i_mode = st.st_mode
    inode.i_uid = st.st_uid
    inode.i_gid = st.st_gid
    inode.i_nlink = st.st_nlink
    inode.i_size = st.st_size
    inode.i_blocks = st.st_blocks
    inode.i_atime = st.st_atime_ns if writable else st.st_mtime_ns
    inode.i_mtime = st.st_mtime_ns
    inode.i_ctime = st.st_ctime_ns


@notrace
def refresh(inode: Inode, st: os.stat_result) -> None:
    """Attributes anew; drops what the page cache holds if the host's file has changed since."""
    node: HostNode = inode.i_private
    stamp = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
    if stamp == node.stamp:
        return
    changed = stamp[:2] != node.stamp[:2]
    node.stamp = stamp
    set_attributes(inode, st, _sb_of(inode).host.writable)
    mapping = inode.i_mapping
    if changed and mapping is not None and mapping.pages:
        if mapping.i_mmap:
            invalidate_mapping_pages(mapping, 0, 1 << 52)       # what is mapped stays as it was
        else:
            truncate_inode_pages(mapping, 0)


def read_name(inode: Inode, dir: HostNode, name: bytes, st: os.stat_result) -> None:
    """Makes a new inode the one for `name` in `dir`."""
    info = _sb_of(inode)
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
        node: HostNode = inode.i_private
        if node.parent is not dir or node.name != name:    # another hard link, or renamed on the host
            node.parent = dir
            node.name = name
            if node.file is not None:
                node.file.path = node_path(node)
        refresh(inode, st)
        inode.i_count += 1
        return inode
    inode = new_inode(sb)
    inode.i_ino = _number(info, key)
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
    inode.i_ino = _number(info, key)
    inode.i_mode = rule.made
    inode.i_nlink = 2
    inode.i_size = 4096
    inode.i_private = node
    inode.i_op = hostfs_dir_iops
    inode.i_fop = hostfs_dir_fops
    info.inodes[key] = inode
    return inode


def hostfs_evict_inode(inode: Inode) -> None:
    """The last reference is gone: the host's descriptor goes too."""
    node: HostNode | None = inode.i_private
    if inode.i_mapping is not None:
        truncate_inode_pages(inode.i_mapping, 0)
    if node is None:
        return
    if node.file is not None:
        node.file.close()
        node.file = None
    info = _sb_of(inode)
    if info.inodes.get(node.key) is inode:
        del info.inodes[node.key]


@notrace
def host_file(inode: Inode, write: bool = False) -> HostFile:
    """The host file behind a regular inode, opened when it is first needed. Raises what the host says."""
    node: HostNode = inode.i_private
    file = node.file
    if file is None or (write and not file.write_mode):
        try:
            new = _sb_of(inode).host.open(node_path(node), write)
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if file is not None:
            file.close()
        file = node.file = new
    return file


# ---- directories ---------------------------------------------------------------------------------
def hostfs_lookup(dir: Inode, dentry: Dentry) -> None:
    """Finds a name on the host; what the policy hides is not there. Errors: EACCES, ENAMETOOLONG of the host."""
    node: HostNode = dir.i_private
    info = _sb_of(dir)
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
    d_add(dentry, inode)


@notrace
def entries_of(dir: Inode) -> list[tuple[bytes, int, int]]:
    """(name, inode number, DT_*) of everything visible, in byte order."""
    node: HostNode = dir.i_private
    info = _sb_of(dir)
    path = node_path(node)
    found: list[tuple[bytes, int, int]] = []
    if node.rule.made:
        for name, rule in node.rule.names.items():
            if rule.made:
                found.append((name, _number(info, path + (name,)), DT_DIR))
                continue
            try:
                st = info.host.stat(path + (name,))
            except OSError:
                continue
            if info.policy.visible(name, st.st_mode):
                found.append((name, _number(info, (st.st_dev, st.st_ino)), st.st_mode >> 12 & 15))
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
            found.append((name, _number(info, (dev, ino)), kind >> 12 & 15))
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
def _change(dir: Inode, action: Callable[..., Any], *args: object) -> Any:
    """Runs one change on the host. Errors: the host's; EROFS in a share that is not for writing."""
    if dir.i_private.rule.made:
        raise KernelError(EROFS)
    try:
        return action(*args)
    except OSError as e:
        raise KernelError(e.errno or EIO) from None


@notrace
def _appear(dir: Inode, dentry: Dentry) -> Inode:
    """After a name was made: its inode goes to the dentry, the directory's times are read again."""
    info = _sb_of(dir)
    st = _change(dir, info.host.stat, child_path(dir, dentry.d_name))
    inode = hostfs_iget(dir.i_sb, dir.i_private, dentry.d_name, st, HOST)
    d_instantiate(dentry, inode)
    reread(dir)
    return inode


@notrace
def reread(inode: Inode) -> None:
    """Attributes of a directory or file after a change made by us; the page cache is as new as the host's."""
    node: HostNode = inode.i_private
    if node.rule.made:
        return
    info = _sb_of(inode)
    try:
        st = node.file.stat() if node.file is not None else info.host.stat(node_path(node))
    except OSError:
        return
    node.stamp = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
    set_attributes(inode, st, info.host.writable)


def hostfs_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """A new empty file. Errors: EEXIST, ENOSPC, EACCES ... of the host."""
    file: HostFile = _change(dir, _sb_of(dir).host.create, child_path(dir, dentry.d_name), mode)
    node: HostNode = _appear(dir, dentry).i_private
    if node.file is not None:
        node.file.close()
    node.file = file


def hostfs_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    _change(dir, _sb_of(dir).host.mkdir, child_path(dir, dentry.d_name), mode)
    _appear(dir, dentry)


def hostfs_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """Only FIFOs (and files): a device node must not come to be on the host. Errors: EPERM."""
    kind = mode & S_IFMT
    if kind == S_IFREG:
        hostfs_create(dir, dentry, mode)
        return
    if kind != S_IFIFO:
        raise KernelError(EPERM)
    _change(dir, _sb_of(dir).host.mkfifo, child_path(dir, dentry.d_name), mode)
    _appear(dir, dentry)


def hostfs_symlink(dir: Inode, dentry: Dentry, text: bytes) -> None:
    _change(dir, _sb_of(dir).host.symlink, child_path(dir, dentry.d_name), text)
    _appear(dir, dentry)


def hostfs_link(old_dentry: Dentry, dir: Inode, dentry: Dentry) -> None:
    old = old_dentry.d_inode
    assert old is not None
    _change(dir, _sb_of(dir).host.link, node_path(old.i_private), child_path(dir, dentry.d_name))
    _appear(dir, dentry)


@notrace
def _keep_open(inode: Inode) -> None:
    """Before a name goes: a file that is still in use must have its descriptor, it cannot be opened again."""
    if inode.i_mode & S_IFMT == S_IFREG and (inode.i_count > 1 or inode.i_mapping.pages):
        try:
            host_file(inode).fd()
        except (KernelError, OSError):
            pass


@notrace
def _disappeared(inode: Inode) -> None:
    node: HostNode = inode.i_private
    inode.i_nlink -= 1
    if inode.i_nlink <= 0:
        inode.i_nlink = 0
        if node.file is not None:
            node.file.unlinked = True


def hostfs_unlink(dir: Inode, dentry: Dentry) -> None:
    inode = dentry.d_inode
    assert inode is not None
    _keep_open(inode)
    _change(dir, _sb_of(dir).host.unlink, child_path(dir, dentry.d_name))
    _disappeared(inode)
    reread(dir)


def hostfs_rmdir(dir: Inode, dentry: Dentry) -> None:
    inode = dentry.d_inode
    assert inode is not None
    _change(dir, _sb_of(dir).host.rmdir, child_path(dir, dentry.d_name))
    inode.i_nlink = 0
    reread(dir)


def hostfs_rename2(old_dir: Inode, old: Dentry, new_dir: Inode, new: Dentry, flags: int) -> None:
    """Errors: EINVAL for flags other than RENAME_NOREPLACE."""
    if flags & ~RENAME_NOREPLACE:
        raise KernelError(EINVAL)
    if new_dir.i_private.rule.made:
        raise KernelError(EROFS)
    inode, target = old.d_inode, new.d_inode
    assert inode is not None
    host = _sb_of(old_dir).host
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
    _change(old_dir, host.rename, child_path(old_dir, old.d_name), to)
    if target is inode:
        return                              # two links of one file: rename(2) does nothing
    if target is not None:
        _disappeared(target)
    node: HostNode = inode.i_private
    node.parent = new_dir.i_private
    node.name = new.d_name
    for moved in _sb_of(old_dir).inodes.values():       # open files at or below the old name
        file = moved.i_private.file
        if file is not None and not file.unlinked:
            file.path = node_path(moved.i_private)
    reread(old_dir)
    reread(new_dir)


# ---- attributes ----------------------------------------------------------------------------------
def hostfs_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """In a share for writing the host is asked each time, since it may write too."""
    node: HostNode = inode.i_private
    info = _sb_of(inode)
    if info.host.writable and inode.i_nlink and not node.rule.made:
        try:
            refresh(inode, info.host.stat(node_path(node)))
        except OSError:
            pass
    return generic_fillattr(inode)


def hostfs_setattr(dentry: Dentry, iattr: Iattr) -> None:
    """chmod, truncate, utimes go to the host at once. Errors: EPERM for a change of owner; the host's."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, iattr)
    valid = iattr.ia_valid
    if (valid & ATTR_UID and iattr.ia_uid != inode.i_uid) or (valid & ATTR_GID and iattr.ia_gid != inode.i_gid):
        raise KernelError(EPERM)
    node: HostNode = inode.i_private
    host = _sb_of(inode).host
    if valid & ATTR_SIZE:
        _change(inode, host_file(inode, True).truncate, iattr.ia_size)
        truncate_setsize(inode, iattr.ia_size)
    if valid & ATTR_MODE:
        if iattr.ia_mode & 0o6000 & ~inode.i_mode:
            raise KernelError(EPERM)
        _change(inode, host.chmod, node_path(node), iattr.ia_mode)
    if valid & (ATTR_ATIME | ATTR_MTIME):
        _change(inode, host.utime, node_path(node),
                iattr.ia_atime if valid & ATTR_ATIME else inode.i_atime,
                iattr.ia_mtime if valid & ATTR_MTIME else inode.i_mtime)
    setattr_copy(inode, iattr)
    reread(inode)


def hostfs_get_link(dentry: Dentry | None, inode: Inode) -> bytes:
    """The text, read once: it says nothing about the host until the guest resolves it in its own tree."""
    link = inode.i_link
    if link is None:
        try:
            link = _sb_of(inode).host.readlink(node_path(inode.i_private))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if not _sb_of(inode).host.writable:
            inode.i_link = link
    return link


def hostfs_d_revalidate(dentry: Dentry) -> bool:
    """Only in shares for writing: has the host made, removed or replaced this name?"""
    parent = dentry.d_parent.d_inode
    inode = dentry.d_inode
    if parent is None or dentry.d_parent is dentry:
        return True
    try:
        st = _sb_of(parent).host.stat(child_path(parent, dentry.d_name))
    except OSError:
        return inode is None
    if inode is None:
        return False
    return inode.i_private.key == (st.st_dev, st.st_ino) and (inode.i_mode ^ st.st_mode) & S_IFMT == 0


# ---- files ---------------------------------------------------------------------------------------
def hostfs_open(inode: Inode, file: File) -> None:
    """Looks at the host's file again: its size may have changed, or another file may have taken its place."""
    node: HostNode = inode.i_private
    if inode.i_nlink and inode.i_mode & S_IFMT == S_IFREG:
        info = _sb_of(inode)
        try:
            st = info.host.stat(node_path(node))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if st.st_mode & S_IFMT != S_IFREG:
            raise KernelError(ENOENT)
        if node.key != (st.st_dev, st.st_ino) and node.file is not None:
            node.file.close()                       # replaced: a package was upgraded, say
            node.file = None
        refresh(inode, st)
        if file.f_mode & FMODE_WRITE:
            host_file(inode, True)


def hostfs_no_device_open(inode: Inode, file: File) -> None:
    """A device of the host is out of reach. Errors: EACCES, as on a mount with nodev."""
    raise KernelError(EACCES)


def hostfs_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Fills one frame from the host; what lies behind its end is zero. A file that shrank has its size
    corrected.

    Errors: EIO when the host cannot read it any more.
    """
    inode = mapping.host
    assert inode is not None
    start = pfn << 12
    frame = inode.i_sb.kernel.machine.ram[start : start + 4096]
    source = host_file(inode)
    try:
        done = source.read_into(frame, index << 12)
        if done < 4096:
            frame[done:] = bytes(4096 - done)
            if (index << 12) + done < inode.i_size:
                inode.i_size = source.stat().st_size
    except OSError:
        raise KernelError(EIO) from None


@may_sleep
def hostfs_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """The frame to copy to, locked. What the copy leaves of a page that is not cached is read first."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    index = pos >> 12
    pfn = grab_cache_page_write_begin(mapping, index)
    if not PageUptodate(kernel, pfn) and length < 4096:
        try:
            hostfs_readpage(file, mapping, index, pfn)
        except KernelError:
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
            raise
        SetPageUptodate(kernel, pfn)
    return pfn


def hostfs_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int,
                     pfn: int) -> int:
    """Writes through: the host has the bytes before write(2) returns. Errors: ENOSPC, EIO ... of the host."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    start = (pfn << 12) + (pos & 4095)
    try:
        done = host_file(inode, True).write(kernel.machine.ram[start : start + copied], pos)
        if done == 4096:
            SetPageUptodate(kernel, pfn)
    except OSError as e:
        raise KernelError(e.errno or EIO) from None
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)
    if pos + done > inode.i_size:
        inode.i_size = pos + done
    return done


def hostfs_writepage(mapping: AddressSpace, index: int, pfn: int) -> None:
    """Stores what was written through a shared mapping."""
    inode = mapping.host
    assert inode is not None
    size = min(4096, inode.i_size - (index << 12))
    if size <= 0:
        return
    try:
        host_file(inode, True).write(inode.i_sb.kernel.machine.ram[pfn << 12 : (pfn << 12) + size], index << 12)
    except OSError as e:
        raise KernelError(e.errno or EIO) from None


def hostfs_file_release(inode: Inode, file: File) -> None:
    """The last user of this open is gone: what was written through a mapping goes to the host."""
    if inode.i_mapping.dirty:
        filemap_write_and_wait(inode.i_mapping)
    if file.f_mode & FMODE_WRITE:
        reread(inode)


def hostfs_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """fsync(2) of the host's file."""
    inode = file.f_inode
    if inode.i_mode & S_IFMT == S_IFREG and _sb_of(inode).host.writable:
        filemap_write_and_wait_range(inode.i_mapping, start, end)
        try:
            host_file(inode).sync(bool(datasync))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None


# ---- mounting ------------------------------------------------------------------------------------
def hostfs_statfs(dentry: Dentry) -> Kstatfs:
    """A share for writing says what the host's file system has free; any other is full."""
    host: HostDir = dentry.d_sb.s_fs_info.host
    try:
        st = host.statvfs()
    except OSError as e:
        raise KernelError(e.errno or EIO) from None
    free = host.writable
    return Kstatfs(HOSTFS_SUPER_MAGIC, st.f_bsize, st.f_blocks, st.f_bfree if free else 0, st.f_bavail if free else 0,
                   st.f_files, st.f_ffree if free else 0, 0, st.f_namemax, st.f_frsize)


def hostfs_fill_sb_common(sb: SuperBlock, host: HostDir, policy: Policy) -> None:
    """Makes sb a view of a host directory."""
    info = sb.s_fs_info = HostfsSb(host, policy)
    sb.s_magic = HOSTFS_SUPER_MAGIC
    sb.s_op = hostfs_sbops
    if host.writable:
        sb.s_d_op = hostfs_dentry_ops
    else:
        sb.s_flags |= SB_RDONLY
    if policy.root.made:
        root = made_inode(sb, None, b"", policy.root)
    else:
        st = host.stat(())
        root = new_inode(sb)
        key = (st.st_dev, st.st_ino)
        root.i_ino = _number(info, key)
        node = root.i_private = HostNode(None, b"", policy.root, key)
        set_attributes(root, st, host.writable)
        root.i_op = hostfs_dir_iops
        root.i_fop = hostfs_dir_fops
        info.inodes[node.key] = root
    sb.s_root = d_make_root(root)


def hostfs_read_sb(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """Mounts what was lent under the tag `dev_name`. Errors: ENODEV if nothing was."""
    share = kernel.hostfs.shares.get(dev_name)
    if share is None:
        raise KernelError(ENODEV)
    host, policy = share
    return mount_nodev(kernel, fs_type, flags, data, lambda sb, _data, _silent: hostfs_fill_sb_common(sb, host, policy))


hostfs_aops = AddressSpaceOperations(
    readpage=hostfs_readpage, write_begin=hostfs_write_begin, write_end=hostfs_write_end,
    writepage=hostfs_writepage, set_page_dirty=__set_page_dirty_nobuffers,
)
hostfs_iops = InodeOperations(getattr=hostfs_getattr, setattr=hostfs_setattr)
hostfs_link_iops = InodeOperations(get_link=hostfs_get_link, getattr=hostfs_getattr, setattr=hostfs_setattr)
hostfs_dir_iops = InodeOperations(
    lookup=hostfs_lookup, create=hostfs_create, link=hostfs_link, unlink=hostfs_unlink, symlink=hostfs_symlink,
    mkdir=hostfs_mkdir, rmdir=hostfs_rmdir, mknod=hostfs_mknod, rename=hostfs_rename2, getattr=hostfs_getattr,
    setattr=hostfs_setattr,
)
hostfs_file_fops = FileOperations(
    llseek=generic_file_llseek, read_iter=generic_file_read_iter, write_iter=generic_file_write_iter,
    mmap=generic_file_mmap, open=hostfs_open, release=hostfs_file_release, fsync=hostfs_fsync,
)
hostfs_dir_fops = FileOperations(
    llseek=generic_file_llseek, read_iter=generic_read_dir, iterate=hostfs_readdir, fsync=hostfs_fsync,
)
hostfs_no_device_fops = FileOperations(open=hostfs_no_device_open)
hostfs_dentry_ops = DentryOperations(d_revalidate=hostfs_d_revalidate)
hostfs_sbops = SuperOperations(statfs=hostfs_statfs, evict_inode=hostfs_evict_inode)
hostfs_type = FileSystemType(b"hostfs", hostfs_read_sb)
