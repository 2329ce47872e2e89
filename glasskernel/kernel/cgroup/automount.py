"""/sys/fs/cgroup as a distribution's init sets it up: a tmpfs with a hierarchy of version 1 for each controller.

Linux mounts nothing there itself; systemd does, at boot (src/core/mount-setup.c). Same: cpu and cpuacct share one, each
    has a link; the tmpfs is read-only once it is filled. Differs: it happens when somebody first looks into
    /sys/fs/cgroup, so that other programs do not pay for it, and not at all once hierarchies have been mounted.
    Without systemd there are no `systemd` and `unified`.
Owns: nothing. Context: the task that looks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import dput
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.mount import vfs_kern_mount
from glasskernel.fs.namei import lookup_one_len
from glasskernel.fs.namespace import do_add_mount, finish_automount
from glasskernel.fs.types import MNT_NODEV, MNT_NOEXEC, MNT_NOSUID, MNT_READONLY, MNT_RELATIME, Path
from glasskernel.kernel.cred import override_creds, prepare_creds, revert_creds
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.cgroup.types import CgroupState

_FLAGS = MNT_NOSUID | MNT_NODEV | MNT_NOEXEC | MNT_RELATIME


@notrace
@may_sleep
def cgroup_automount(path: Path) -> Mount | None:
    """->d_automount(). None: the user has hierarchies of his own."""
    kernel = path.dentry.d_sb.kernel
    state = kernel.cgroup
    assert state is not None
    sets = joint_controllers(state)
    ours = [sum(1 << ss.id for ss in state.subsys if ss.name in names) for names in sets]
    if state.cgrp_dfl_visible or any(root.name or root.subsys_mask not in ours
                                     for number, root in state.roots.items() if number):
        return None
    cred = prepare_creds()
    cred.fsuid = cred.fsgid = 0
    old = override_creds(cred)
    try:
        mnt = vfs_kern_mount(kernel, kernel.vfs.file_systems[b"tmpfs"], 0, b"tmpfs", b"mode=755")
        finish_automount(mnt, path)
        mnt.mnt_flags |= _FLAGS
        mount_hierarchies(kernel, mnt, sets)
        mnt.mnt_flags |= MNT_READONLY
    finally:
        revert_creds(old)
    return mnt


@notrace
def joint_controllers(state: CgroupState) -> list[list[bytes]]:
    """What is in one hierarchy each: cpu and cpuacct together, the others alone."""
    joint = [b"cpu", b"cpuacct"]
    return [joint, *([ss.name] for ss in state.subsys if ss.name not in joint)]


@notrace
@may_sleep
def mount_hierarchies(kernel: Kernel, mnt: Mount, sets: list[list[bytes]]) -> None:
    """Each on a directory of its own."""
    root = mnt.mnt_root
    dir = root.d_inode
    assert dir is not None
    for controllers in sets:
        name = b",".join(controllers)
        place = _child(root, name)
        inode_lock(dir)
        dir.i_op.mkdir(dir, place, 0o755)
        inode_unlock(dir)
        sub = vfs_kern_mount(kernel, kernel.vfs.file_systems[b"cgroup"], 0, b"cgroup", name)
        do_add_mount(sub, Path(mnt, place), _FLAGS)
        dput(place)
        for alias in controllers if len(controllers) > 1 else ():
            link = _child(root, alias)
            inode_lock(dir)
            dir.i_op.symlink(dir, link, name)
            inode_unlock(dir)
            dput(link)


@notrace
def _child(root: Dentry, name: bytes) -> Dentry:
    assert root.d_inode is not None
    inode_lock(root.d_inode)
    try:
        return lookup_one_len(name, root)
    finally:
        inode_unlock(root.d_inode)
