"""Mount propagation: peer groups, slaves, and what happens in one mount when another of its group changes.

Linux: fs/pnode.c (5.3). Same: shared, private, slave, unbindable; a mount or umount below a shared mount happens
below all its peers and slaves. Differs: peers and slaves are found by looking at all mounts (there are few).
Owns: Mount.mnt_group_id, mnt_master, MNT_SHARED, MNT_UNBINDABLE.
Invariants: MNT_SHARED exactly when mnt_group_id != 0; mnt_master is a shared mount or None.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import is_subdir
from glasskernel.fs.mount import __lookup_mnt
from glasskernel.fs.types import MNT_SHARED, MNT_UMOUNT, MNT_UNBINDABLE
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount

MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20


@notrace
def is_shared(mnt: Mount) -> bool:
    """IS_MNT_SHARED()"""
    return bool(mnt.mnt_flags & MNT_SHARED)


@notrace
def peers_of(mnt: Mount) -> list[Mount]:
    """The other mounts of its peer group."""
    group = mnt.mnt_group_id
    if not group:
        return []
    return [m for m in mnt.mnt_sb.kernel.vfs.mounts.values() if m.mnt_group_id == group and m is not mnt]


@notrace
def slaves_of_group(mnt: Mount) -> list[Mount]:
    """The mounts that receive from its peer group."""
    group = mnt.mnt_group_id
    if not group:
        return []
    return [m for m in mnt.mnt_sb.kernel.vfs.mounts.values()
            if m.mnt_master is not None and m.mnt_master.mnt_group_id == group]


def mnt_alloc_group_id(mnt: Mount) -> None:
    """The lowest free peer group number."""
    groups = mnt.mnt_sb.kernel.vfs.mount_groups
    group = 1
    while group in groups:
        group += 1
    groups[group] = None
    mnt.mnt_group_id = group


def mnt_release_group_id(mnt: Mount) -> None:
    """The last member leaves its peer group."""
    mnt.mnt_sb.kernel.vfs.mount_groups.pop(mnt.mnt_group_id, None)
    mnt.mnt_group_id = 0


@notrace
def set_mnt_shared(mnt: Mount) -> None:
    """Marks a mount with a group number as shared."""
    mnt.mnt_flags = mnt.mnt_flags & ~MNT_UNBINDABLE | MNT_SHARED


def do_make_slave(mnt: Mount) -> None:
    """Leaves the peer group, and receives from it from now on; the last member's slaves go to its own master."""
    if not mnt.mnt_group_id:
        return
    peers = peers_of(mnt)
    slaves = slaves_of_group(mnt)
    if peers:
        # prefer a peer with the same root, so that nothing of the view is lost
        master: Mount | None = next((m for m in peers if m.mnt_root is mnt.mnt_root), peers[0])
        mnt.mnt_group_id = 0
        for slave in slaves:
            if slave.mnt_master is mnt:
                slave.mnt_master = master
        mnt.mnt_master = master
    else:
        master = mnt.mnt_master
        mnt_release_group_id(mnt)
        for slave in slaves:
            slave.mnt_master = master
    mnt.mnt_flags &= ~MNT_SHARED


def change_mnt_propagation(mnt: Mount, type: int) -> None:
    """MS_SHARED (the group number is there), MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE for one mount."""
    if type == MS_SHARED:
        set_mnt_shared(mnt)
        return
    do_make_slave(mnt)
    if type != MS_SLAVE:
        mnt.mnt_master = None
        if type == MS_UNBINDABLE:
            mnt.mnt_flags |= MNT_UNBINDABLE
        else:
            mnt.mnt_flags &= ~MNT_UNBINDABLE


def propagation_next(origin: Mount) -> list[tuple[Mount, bool]]:
    """Every mount that receives what happens in `origin`: (mount, True if as a slave), nearest first."""
    found: list[tuple[Mount, bool]] = [(m, False) for m in peers_of(origin)]
    groups = [origin]
    seen = {origin.mnt_group_id: None}
    while groups:
        for slave in slaves_of_group(groups.pop(0)):
            if all(m is not slave for m, _ in found):
                found.append((slave, True))
            if slave.mnt_group_id and slave.mnt_group_id not in seen:
                seen[slave.mnt_group_id] = None
                groups.append(slave)
                found += [(m, True) for m in peers_of(slave) if all(m is not f for f, _ in found)]
    return found


@notrace
def propagation_targets(dest_mnt: Mount, mountpoint: Dentry) -> list[tuple[Mount, bool]]:
    """Where a mount on (dest_mnt, mountpoint) must appear too: the receivers that show the mountpoint."""
    return [(m, slave) for m, slave in propagation_next(dest_mnt)
            if m.mnt_ns is not None and is_subdir(mountpoint, m.mnt_root)]


@notrace
def propagated_children(mnt: Mount) -> list[Mount]:
    """The copies of a mount that propagation made below the peers and slaves of its parent, without children."""
    parent = mnt.mnt_parent
    found = []
    if parent is not mnt:
        for m, _ in propagation_next(parent):
            child = __lookup_mnt(m, mnt.mnt_mountpoint)
            if child is not None and child.mnt_sb is mnt.mnt_sb and not child.mnt_flags & MNT_UMOUNT:
                found.append(child)
    return found


def propagate_mount_busy(mnt: Mount, refcnt: int) -> bool:
    """True if the mount, or a copy of it elsewhere, has users beyond `refcnt` references or mounts below it."""
    if mnt.mnt_children or mnt.mnt_count > refcnt:
        return True
    return any(not child.mnt_children and child.mnt_count > 1 for child in propagated_children(mnt))
