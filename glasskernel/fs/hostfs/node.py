"""What hostfs keeps of each host file, and how it asks the host.

Linux: fs/hostfs/hostfs_user.c plays this part (5.3). Owns: every HostNode and HostfsSb.
Invariants: inode numbers are given in the order in which the guest meets (st_dev, st_ino), so they do not tell
    the host's; a HostNode's path leads to its file, or the host has moved it.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.hostfs.policy import Policy, Rule
from glasskernel.lib.errno import EIO, EROFS, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.hostdir import HostDir, HostFile, Names
from glasskernel.mm.truncate import invalidate_mapping_pages, truncate_inode_pages

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@slotted
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


@slotted
class HostfsSb:
    """sb.s_fs_info"""

    host: HostDir
    policy: Policy
    inodes: dict[Hashable, Inode] = field(default_factory=dict)
    numbers: dict[Hashable, int] = field(default_factory=dict)
    last_ino: int = 1


@notrace
def node_path(node: HostNode) -> Names:
    """The names that lead to a node from the shared directory."""
    names: list[bytes] = []
    while node.parent is not None:
        names.append(node.name)
        node = node.parent
    return tuple(reversed(names))


@notrace
def called(node: HostNode, parent: HostNode, name: bytes) -> None:
    """The name by which the host was last seen to know the node: one of its links, or after a rename."""
    if node.parent is not parent or node.name != name:
        node.parent = parent
        node.name = name
        if node.file is not None and not node.file.unlinked:
            node.file.path = node_path(node)


@notrace
def child_path(dir: Inode, name: bytes) -> Names:
    return node_path(dir.i_private) + (name,)


@notrace
def hostfs_sb(inode: Inode) -> HostfsSb:
    info: HostfsSb = inode.i_sb.s_fs_info
    return info


@notrace
def inode_number(info: HostfsSb, key: Hashable) -> int:
    number = info.numbers.get(key)
    if number is None:
        info.last_ino += 1
        number = info.numbers[key] = info.last_ino
    return number


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
    set_attributes(inode, st, hostfs_sb(inode).host.writable)
    mapping = inode.i_mapping
    if changed and mapping is not None and mapping.pages:
        if mapping.i_mmap:
            invalidate_mapping_pages(mapping, 0, 1 << 52)       # what is mapped stays as it was
        else:
            truncate_inode_pages(mapping, 0)


@notrace
def host_file(inode: Inode, write: bool = False) -> HostFile:
    """The host file behind a regular inode, opened when it is first needed. Raises what the host says."""
    node: HostNode = inode.i_private
    file = node.file
    if file is None or (write and not file.write_mode):
        try:
            new = hostfs_sb(inode).host.open(node_path(node), write)
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if file is not None:
            file.close()
        file = node.file = new
    return file


@notrace
def change(dir: Inode, action: Callable[..., Any], *args: object) -> Any:
    """Runs one change on the host. Errors: the host's; EROFS in a share that is not for writing."""
    if dir.i_private.rule.made:
        raise KernelError(EROFS)
    try:
        return action(*args)
    except OSError as e:
        raise KernelError(e.errno or EIO) from None


@notrace
def reread(inode: Inode) -> None:
    """Attributes of a directory or file after a change made by us; the page cache is as new as the host's."""
    node: HostNode = inode.i_private
    if node.rule.made:
        return
    info = hostfs_sb(inode)
    try:
        st = node.file.stat() if node.file is not None else info.host.stat(node_path(node))
    except OSError:
        return
    node.stamp = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
    set_attributes(inode, st, info.host.writable)
