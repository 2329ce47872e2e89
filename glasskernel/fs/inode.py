"""Inodes: making, caching, dropping them, and their times.

Linux: fs/inode.c, include/linux/fs.h (5.3). Same: i_count 0 leaves a linked, hashed inode cached; relatime.
Differs: no LRU (an inode without users stays until its file system goes or a shrinker comes);
file_remove_privs() is in attr.py, since it changes attributes.
Owns: SuperBlock.s_inodes (the hash) and s_inode_list (every inode of new_inode(), in order).
Invariants: an inode with I_FREEING is in neither; i_hashed == (s_inodes[i_ino] is inode).
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.fs_writeback import (
    __mark_inode_dirty,
    inode_io_list_del,
    inode_wait_for_writeback,
    write_inode_now,
)
from glasskernel.fs.inode_wait import wait_while_inode, wake_up_inode
from glasskernel.fs.mnt_writers import __mnt_drop_write, __mnt_want_write
from glasskernel.fs.types import (
    I_CLEAR,
    I_CREATING,
    I_DIRTY_ALL,
    I_DIRTY_SYNC,
    I_DIRTY_TIME,
    I_FREEING,
    I_LINKABLE,
    I_NEW,
    I_SYNC,
    I_WILL_FREE,
    MNT_NOATIME,
    MNT_NODIRATIME,
    MNT_RELATIME,
    O_NOATIME,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFSOCK,
    S_ISGID,
    S_IXGRP,
    S_NOATIME,
    S_NOCMTIME,
    SB_ACTIVE,
    SB_LAZYTIME,
    SB_NOATIME,
    SB_NODIRATIME,
    FileOperations,
    Inode,
    InodeOperations,
    _nothing,
)
from glasskernel.kernel.capability import CAP_FOWNER, CAP_FSETID, capable_wrt_inode_uidgid
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import RwSemaphore, down_read, down_read_killable, down_write, up_read, up_write
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.task import PF_KSWAPD
from glasskernel.kernel.time.timekeeping import ktime_get_coarse_real_ts64
from glasskernel.lib.errno import EBUSY, EINVAL, ENXIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL, KSWAPD_INODESTEAL, PGINODESTEAL
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free
from glasskernel.mm.truncate import invalidate_mapping_pages, truncate_inode_pages_final
from glasskernel.mm.types import AddressSpace, AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Path, SuperBlock
    from glasskernel.mm.slab_types import KmemCache

empty_iops = InodeOperations()
empty_aops = AddressSpaceOperations()


@notrace
def _no_open(_inode: Inode, _file: File) -> None:
    raise KernelError(ENXIO)


no_open_fops = FileOperations(open=_no_open)

# what update_time() is asked to change
S_ATIME, S_MTIME, S_CTIME, S_VERSION = 1, 2, 4, 8


# ---- making ------------------------------------------------------------------------------------------------
def alloc_inode(sb: SuperBlock) -> Inode:
    """A new inode of `sb` with default operations, in no list. Context: task."""
    alloc = sb.s_op.alloc_inode if sb.s_op is not None else None
    if alloc is not None:
        inode = alloc(sb)
    else:
        inode = inode_from(sb, sb.kernel.slab.inode_cachep)
    inode_init_always(sb, inode)
    return inode


def inode_init_always(sb: SuperBlock, inode: Inode) -> None:
    """What every inode starts with, but a page cache: new_inode() and iget_locked() add that."""
    inode.i_op = empty_iops
    inode.i_fop = no_open_fops
    kernel = sb.kernel
    kernel.vfs.nr_inodes += 1
    lsm = kernel.lsm
    if lsm is not None:
        lsm.security_inode_alloc(inode)


def inode_sb_list_add(inode: Inode) -> None:
    """The file system knows its inode, and the inode has an empty page cache."""
    inode.i_mapping = inode.i_data = AddressSpace(inode, empty_aops)
    inode.i_sb.s_inode_list[inode] = None


@notrace
def inode_from(sb: SuperBlock, cachep: KmemCache) -> Inode:
    """For ->alloc_inode(): an inode in a slot of the file system's own cache. Raises ENOMEM."""
    address = kmem_cache_alloc(cachep, GFP_KERNEL)
    inode = Inode(sb, 0)
    inode.slab_address = address
    return inode


def new_inode_pseudo(sb: SuperBlock) -> Inode:
    """An inode in no list and without a page cache: pipes, sockets, anonymous inodes."""
    return alloc_inode(sb)


def new_inode(sb: SuperBlock) -> Inode:
    """A new inode with i_count 1 and an empty page cache; the caller gives i_ino, i_mode and operations.

    Context: task. The reference is the caller's; d_add(), d_instantiate() or d_make_root() take it over.
    """
    inode = alloc_inode(sb)
    inode_sb_list_add(inode)
    return inode


def get_next_ino() -> int:
    """A fresh inode number for a file system without numbers of its own, unique in this kernel."""
    vfs = current().kernel.vfs
    vfs.last_ino += 1
    return vfs.last_ino


def inode_init_owner(inode: Inode, dir: Inode | None, mode: int) -> None:
    """Owner and mode of a new inode: the caller's, and the group of a SGID directory."""
    cred = current().cred
    inode.i_uid = cred.fsuid
    if dir is not None and dir.i_mode & S_ISGID:
        inode.i_gid = dir.i_gid
        if mode & S_IFMT == S_IFDIR:
            mode |= S_ISGID
        elif (mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP and not in_group_p(inode.i_gid)
              and not capable_wrt_inode_uidgid(dir, CAP_FSETID)):
            mode &= ~S_ISGID
    else:
        inode.i_gid = cred.fsgid
    inode.i_mode = mode


def init_special_inode(inode: Inode, mode: int, rdev: int) -> None:
    """Operations of a device, FIFO or socket inode. The tables are registered in kernel.vfs.special_fops."""
    inode.i_mode = mode
    kind = mode & S_IFMT
    if kind in (S_IFCHR, S_IFBLK):
        inode.i_fop = inode.i_sb.kernel.vfs.special_fops.get(kind, no_open_fops)
        inode.i_rdev = rdev
    elif kind == S_IFIFO:
        inode.i_fop = inode.i_sb.kernel.vfs.special_fops.get(kind, no_open_fops)
    else:
        assert kind == S_IFSOCK, f"bogus i_mode {mode:o}"


# ---- the cache ---------------------------------------------------------------------------------------------
@may_sleep
def iget_locked(sb: SuperBlock, ino: int) -> Inode:
    """The cached inode `ino`, or a new one marked I_NEW: the caller fills it, then unlock_new_inode().

    Waits until one that is being read is there, or one that is being freed is gone.
    """
    while True:
        found = find_inode_fast(sb, ino)
        if found is None:
            break
        if found.i_state & I_NEW:
            wait_on_inode(found)
            if not found.i_hashed:                 # who read it gave up: try it ourselves
                iput(found)
                continue
        return found
    inode = alloc_inode(sb)
    inode.i_ino = ino
    inode.i_state = I_NEW
    inode.i_hashed = True
    sb.s_inodes[ino] = inode
    inode_sb_list_add(inode)
    return inode


@may_sleep
def find_inode_fast(sb: SuperBlock, ino: int) -> Inode | None:
    """The cached inode `ino` with a reference, or None. One that is being freed is waited for."""
    while True:
        inode = sb.s_inodes.get(ino)
        if inode is None:
            return None
        if not inode.i_state & (I_FREEING | I_WILL_FREE):
            inode.i_count += 1
            return inode
        __wait_on_freeing_inode(inode)


@may_sleep
@notrace
def wait_on_inode(inode: Inode) -> None:
    """Until the task that reads it has it, or has given it up."""
    wait_while_inode(inode, lambda: bool(inode.i_state & I_NEW))


@may_sleep
def __wait_on_freeing_inode(inode: Inode) -> None:
    wait_while_inode(inode, lambda: inode.i_hashed and bool(inode.i_state & (I_FREEING | I_WILL_FREE)))


@may_sleep
def ilookup(sb: SuperBlock, ino: int) -> Inode | None:
    """The cached inode `ino` with a reference, or None."""
    inode = sb.s_inodes.get(ino)
    if inode is None or inode.i_state & (I_FREEING | I_WILL_FREE):
        return None
    inode.i_count += 1
    if inode.i_state & I_NEW:
        wait_on_inode(inode)
        if not inode.i_hashed:
            iput(inode)
            return None
    return inode


def unlock_new_inode(inode: Inode) -> None:
    """Ends I_NEW: the inode is complete."""
    inode.i_state &= ~(I_NEW | I_CREATING)
    wake_up_inode(inode)


def iget_failed(inode: Inode) -> None:
    """Gives up an I_NEW inode that could not be filled."""
    remove_inode_hash(inode)
    inode.i_nlink = 0
    unlock_new_inode(inode)
    iput(inode)


@notrace
def insert_inode_hash(inode: Inode) -> None:
    """Lets iget_locked() find the inode."""
    inode.i_sb.s_inodes[inode.i_ino] = inode
    inode.i_hashed = True


@may_sleep
def insert_inode_locked(inode: Inode) -> None:
    """Lets iget_locked() find a new inode, which is I_NEW from now on. Raises EBUSY if its number is in use."""
    while True:
        old = inode.i_sb.s_inodes.get(inode.i_ino)
        if old is None:
            break
        if not old.i_state & (I_FREEING | I_WILL_FREE):
            raise KernelError(EBUSY)
        __wait_on_freeing_inode(old)
    inode.i_state |= I_NEW | I_CREATING
    insert_inode_hash(inode)


@notrace
def remove_inode_hash(inode: Inode) -> None:
    """Hides the inode from iget_locked()."""
    if inode.i_hashed:
        del inode.i_sb.s_inodes[inode.i_ino]
        inode.i_hashed = False


def ihold(inode: Inode) -> None:
    """One more reference; the caller has one."""
    inode.i_count += 1


def igrab(inode: Inode) -> Inode | None:
    """One more reference, or None if the inode is being freed."""
    if inode.i_state & I_FREEING:
        return None
    inode.i_count += 1
    return inode


@may_sleep
def iput(inode: Inode | None) -> None:
    """Drops a reference. The last one of an unlinked inode frees it and its data. Context: task."""
    if inode is None:
        return
    if inode.i_count == 1 and inode.i_nlink and inode.i_state & I_DIRTY_TIME:
        probe = inode.i_sb.kernel.tp.writeback_lazytime_iput
        if probe is not None:
            probe(inode)
        __mark_inode_dirty(inode, I_DIRTY_SYNC)    # mark_inode_dirty_sync(): the times are stored with the rest
    inode.i_count -= 1
    if not inode.i_count:
        iput_final(inode)


@notrace
def generic_drop_inode(inode: Inode) -> bool:
    """True: nobody can find the inode again, free it."""
    return not inode.i_nlink or not inode.i_hashed


def iput_final(inode: Inode) -> None:
    """The last reference is gone: cache the inode or free it."""
    sb = inode.i_sb
    drop_inode = sb.s_op.drop_inode
    drop = generic_drop_inode(inode) if drop_inode is None else drop_inode(inode)
    if not drop and sb.s_flags & SB_ACTIVE:
        return
    if not drop and inode.i_state & I_DIRTY_ALL:
        inode.i_state |= I_WILL_FREE
        with suppress(KernelError):                # nobody is left to be told
            write_inode_now(inode, 1)
        inode.i_state &= ~I_WILL_FREE
    evict(inode)


def evict(inode: Inode) -> None:
    """Frees an inode without references: data, page cache, hash, lists."""
    sb = inode.i_sb
    inode.i_state |= I_FREEING
    inode_io_list_del(inode)
    sb.s_inode_list.pop(inode, None)
    if inode.i_state & I_SYNC:
        inode_wait_for_writeback(inode)            # the flusher does not hold it, and must not see it go
    evict_inode = sb.s_op.evict_inode
    if evict_inode is not _nothing:
        evict_inode(inode)
    if not inode.i_state & I_CLEAR:                # no ->evict_inode(), or one that leaves the rest to us
        mapping = inode.i_data
        if mapping is not None and mapping.pages:
            truncate_inode_pages_final(mapping)
        clear_inode(inode)
    if inode.i_bdev is not None and inode.i_mode & S_IFMT == S_IFBLK:
        sb.kernel.vfs.bd_forget(inode)
    remove_inode_hash(inode)
    wake_up_inode(inode)
    destroy_inode(inode)


def destroy_inode(inode: Inode) -> None:
    """Its memory goes after a grace period: walks without references may be reading it."""
    inode.i_sb.kernel.vfs.nr_inodes -= 1           # __destroy_inode()
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_inode_free(inode)
    call_rcu(inode, i_callback)


def i_callback(inode: Inode) -> None:
    """Nobody reads it any more. Context: softirq."""
    inode.i_link = None                            # a walk may have been reading it
    free = inode.i_sb.s_op.free_inode if inode.i_sb.s_op is not None else None
    if free is not None:
        free(inode)
    else:
        free_inode_nonrcu(inode)
    inode.i_private = None


def free_inode_nonrcu(inode: Inode) -> None:
    """The end of an inode whose file system has no cache of its own."""
    kmem_cache_free(inode.i_sb.kernel.slab.inode_cachep, inode.slab_address)


def clear_inode(inode: Inode) -> None:
    """The end of every ->evict_inode(): nothing of the inode is in the cache any more."""
    mapping = inode.i_data
    if mapping is not None:
        if mapping.pages:                          # a file system that forgot: its pages go
            truncate_inode_pages_final(mapping)
        assert not mapping.private_list, "clear_inode() with buffers to be written"
    inode.i_state = I_FREEING | I_CLEAR


def evict_inodes(sb: SuperBlock) -> None:
    """Frees every unused inode of a file system that is going away."""
    for inode in list(sb.s_inode_list):
        if not inode.i_count and not inode.i_state & I_FREEING:
            evict(inode)


@notrace
def inode_unused(inode: Inode) -> bool:
    """Nobody uses it, and nothing of it has to be stored: it could be read again."""
    return not inode.i_count and not inode.i_state & (I_DIRTY_ALL | I_SYNC | I_NEW | I_FREEING | I_WILL_FREE)


def inode_lru_isolate(inode: Inode) -> bool:
    """True if an unused inode can go now: its clean pages are dropped first."""
    mapping = inode.i_mapping
    if mapping is not None and mapping.pages:
        reap = invalidate_mapping_pages(mapping, 0, (1 << 52) - 1)
        task = current()
        task.kernel.mem.vm_event[KSWAPD_INODESTEAL if task.flags & PF_KSWAPD else PGINODESTEAL] += reap
        if mapping.pages:
            return False
    inode.i_state |= I_FREEING
    return True


@may_sleep
def prune_icache_sb(sb: SuperBlock, nr_to_scan: int) -> int:
    """The shrinker's turn: frees up to nr_to_scan unused inodes of a file system on a disk. Answers how many.

    Inodes of other file systems stay: some have no other place for what they know.
    """
    if sb.s_bdev is None:
        return 0
    freeable: list[Inode] = []
    for inode in sb.s_inode_list:
        if inode_unused(inode) and inode_lru_isolate(inode):
            freeable.append(inode)
            if len(freeable) >= nr_to_scan:
                break
    dispose_list(freeable)
    return len(freeable)


def dispose_list(freeable: list[Inode]) -> None:
    """Frees inodes that nobody can find any more."""
    for inode in freeable:
        evict(inode)
        cond_resched()


# ---- link counts -------------------------------------------------------------------------------------------
def inc_nlink(inode: Inode) -> None:
    """One more name."""
    if not inode.i_nlink:
        assert inode.i_state & I_LINKABLE, "inc_nlink() of a deleted inode"
    inode.i_nlink += 1


def drop_nlink(inode: Inode) -> None:
    """One name less."""
    assert inode.i_nlink > 0, "i_nlink below zero"
    inode.i_nlink -= 1


def clear_nlink(inode: Inode) -> None:
    """No names."""
    inode.i_nlink = 0


def set_nlink(inode: Inode, nlink: int) -> None:
    """i_nlink as read from the file system."""
    inode.i_nlink = nlink


# ---- locks -------------------------------------------------------------------------------------------------
@may_sleep
@notrace
def inode_lock(inode: Inode) -> None:
    """Takes i_rwsem for writing: who changes a directory or the size of a file. Context: task."""
    sem = inode.i_rwsem
    if sem is None:
        sem = inode.i_rwsem = RwSemaphore()
    down_write(sem)


@notrace
def inode_unlock(inode: Inode) -> None:
    """Ends inode_lock()."""
    up_write(inode.i_rwsem)


@may_sleep
@notrace
def inode_lock_shared(inode: Inode) -> None:
    """Takes i_rwsem for reading. Context: task."""
    sem = inode.i_rwsem
    if sem is None:
        sem = inode.i_rwsem = RwSemaphore()
    down_read(sem)


@may_sleep
@notrace
def inode_lock_shared_killable(inode: Inode) -> None:
    """inode_lock_shared() for a directory that is listed. Raises EINTR if a fatal signal comes first."""
    sem = inode.i_rwsem
    if sem is None:
        sem = inode.i_rwsem = RwSemaphore()
    down_read_killable(sem)


@notrace
def inode_unlock_shared(inode: Inode) -> None:
    """Ends inode_lock_shared()."""
    up_read(inode.i_rwsem)


@may_sleep
def lock_two_nondirectories(inode1: Inode | None, inode2: Inode | None) -> None:
    """inode_lock() of up to two files, in the order of their inode numbers; directories are left alone."""
    first = inode1 if inode1 is not None and inode1.i_mode & S_IFMT != S_IFDIR else None
    second = inode2 if inode2 is not None and inode2.i_mode & S_IFMT != S_IFDIR else None
    if first is not None and second is not None and first.i_ino > second.i_ino:
        first, second = second, first
    if first is not None:
        inode_lock(first)
    if second is not None and second is not first:
        inode_lock(second)


def unlock_two_nondirectories(inode1: Inode | None, inode2: Inode | None) -> None:
    """Ends lock_two_nondirectories()."""
    if inode1 is not None and inode1.i_mode & S_IFMT != S_IFDIR:
        inode_unlock(inode1)
    if inode2 is not None and inode2.i_mode & S_IFMT != S_IFDIR and inode2 is not inode1:
        inode_unlock(inode2)


@may_sleep
def bmap(inode: Inode, block: int) -> int:
    """The block of the device where block `block` of a file is; 0: a hole. Raises EINVAL without ->bmap()."""
    find = inode.i_mapping.a_ops.bmap
    if find is None:
        raise KernelError(EINVAL)
    return find(inode.i_mapping, block)


@notrace
def inode_dio_begin(inode: Inode) -> None:
    """Direct I/O starts: truncation must wait for it."""
    inode.i_dio_count += 1


@notrace
def inode_dio_end(inode: Inode) -> None:
    """It is done. Context: any."""
    inode.i_dio_count -= 1
    if not inode.i_dio_count:
        wake_up_inode(inode)


@may_sleep
def inode_dio_wait(inode: Inode) -> None:
    """Waits until no direct I/O is under way. Locks: i_rwsem, so that none begins."""
    if inode.i_dio_count:
        wait_while_inode(inode, lambda: inode.i_dio_count > 0)


# ---- who may -----------------------------------------------------------------------------------------------
@notrace
def in_group_p(gid: int) -> bool:
    """True if the caller's fsgid or a supplementary group is `gid`."""
    cred = current().cred
    return gid == cred.fsgid or gid in cred.groups


def inode_owner_or_capable(inode: Inode) -> bool:
    """True if the caller owns the inode or has CAP_FOWNER."""
    return current().cred.fsuid == inode.i_uid or capable_wrt_inode_uidgid(inode, CAP_FOWNER)


# ---- times -------------------------------------------------------------------------------------------------
def current_time(inode: Inode) -> int:
    """Now, in ns since the Epoch, as fine as the file system keeps time."""
    now = ktime_get_coarse_real_ts64()
    gran = inode.i_sb.s_time_gran
    return now if gran == 1 else now - now % gran


def relatime_need_update(mnt_flags: int, inode: Inode, now: int) -> bool:
    """relatime: only when atime is not newer than mtime or ctime, or a day old."""
    if not mnt_flags & MNT_RELATIME:
        return True
    atime = inode.i_atime
    return inode.i_mtime >= atime or inode.i_ctime >= atime or now - atime >= 86_400_000_000_000


def atime_needs_update(path: Path, inode: Inode) -> bool:
    """True if an access now must move atime."""
    mnt = path.mnt
    flags = mnt.mnt_flags
    if inode.i_flags & (S_NOATIME | S_NOCMTIME) or flags & MNT_NOATIME:
        return False
    sb_flags = inode.i_sb.s_flags
    if sb_flags & SB_NOATIME:
        return False
    if inode.i_mode & S_IFMT == S_IFDIR and (sb_flags & SB_NODIRATIME or flags & MNT_NODIRATIME):
        return False
    now = current_time(inode)
    return relatime_need_update(flags, inode, now) and inode.i_atime != now


def generic_update_time(inode: Inode, time: int, flags: int) -> None:
    """Stores the times that `flags` (S_ATIME ...) names. The inode is dirty then; lazily with "lazytime"."""
    if flags & S_ATIME:
        inode.i_atime = time
    if flags & S_CTIME:
        inode.i_ctime = time
    if flags & S_MTIME:
        inode.i_mtime = time
    if flags & S_VERSION:
        inode.i_version += 1
    sb = inode.i_sb
    if sb.s_bdi is not None:
        lazy = sb.s_flags & SB_LAZYTIME and not flags & S_VERSION
        __mark_inode_dirty(inode, I_DIRTY_TIME if lazy else I_DIRTY_SYNC)


def update_time(inode: Inode, time: int, flags: int) -> None:
    """->update_time(), or generic_update_time()."""
    update = inode.i_op.update_time
    if update is None:
        generic_update_time(inode, time, flags)
    else:
        update(inode, time, flags)


def touch_atime(path: Path) -> None:
    """Notes an access. Never fails. Context: task."""
    inode = path.dentry.d_inode
    assert inode is not None
    if not atime_needs_update(path, inode):
        return
    mnt = path.mnt
    try:
        __mnt_want_write(mnt)
    except KernelError:
        return
    try:
        update_time(inode, current_time(inode), S_ATIME)
    except KernelError:
        pass
    finally:
        __mnt_drop_write(mnt)


@notrace
def file_accessed(file: File) -> None:
    """touch_atime(), unless the file was opened with O_NOATIME."""
    if not file.f_flags & O_NOATIME:
        touch_atime(file.f_path)


def file_update_time(file: File) -> None:
    """Notes a write: mtime and ctime. Context: task."""
    inode = file.f_inode
    if inode.i_flags & S_NOCMTIME:
        return
    now = current_time(inode)
    sync_it = 0
    if inode.i_mtime != now:
        sync_it = S_MTIME
    if inode.i_ctime != now:
        sync_it |= S_CTIME
    if sync_it:
        update_time(inode, now, sync_it)


def inode_set_flags(inode: Inode, flags: int, mask: int) -> None:
    """Sets the S_* flags in `mask` to `flags`."""
    inode.i_flags = inode.i_flags & ~mask | flags


def inode_add_bytes(inode: Inode, bytes: int) -> None:
    """Moves i_blocks by a size in bytes (a multiple of 512)."""
    inode.i_blocks += bytes >> 9
