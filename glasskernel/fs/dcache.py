"""The dentry cache: names that were looked up, and the tree they form.

Linux: fs/dcache.c (5.3). Same: negative dentries, d_count 0 stays cached, d_delete() of a busy dentry unhashes.
Differs: the hash is one dict per directory, `parent.d_subdirs`, and holds hashed dentries only; walks take no
references on the way (what rcu-walk does), because nothing can run between two calls of schedule(); no LRU.
Owns: every Dentry.
Invariants: d_hashed == (d_parent.d_subdirs[d_name] is the dentry), roots aside; a dentry holds one reference on
    its parent and, through d_inode, one on its inode; d_count of a killed dentry is 0 and its d_inode None.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.fsnotify import fsnotify_inoderemove
from glasskernel.fs.inode import drop_nlink, iput
from glasskernel.fs.inode_wait import wake_up_inode
from glasskernel.fs.types import (
    DCACHE_CANT_MOUNT,
    DCACHE_DENTRY_KILLED,
    DCACHE_DISCONNECTED,
    DCACHE_MOUNTED,
    DCACHE_NORCU,
    I_CREATING,
    I_NEW,
    S_IFDIR,
    S_IFMT,
    Dentry,
    DentryOperations,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.spinlock import _raw_spin_lock, _raw_spin_unlock
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.lib.errno import EIO, ELOOP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock

no_dentry_operations = DentryOperations()


# ---- references --------------------------------------------------------------------------------------------
@notrace
def dget(dentry: Dentry) -> Dentry:
    """One more reference; answers the dentry."""
    dentry.d_count += 1
    return dentry


@may_sleep
def dput(dentry: Dentry | None) -> None:
    """Drops a reference. An unhashed dentry goes with its last one; a hashed one stays cached."""
    while dentry is not None:
        count = dentry.d_count - 1
        if count > 0:
            dentry.d_count = count
            return
        assert count == 0, f"dput() of {dentry!r} with d_count {dentry.d_count}"
        if dentry.d_hashed and not dentry.d_flags & DCACHE_DISCONNECTED:
            d_delete_op = dentry.d_op.d_delete
            if d_delete_op is None or not d_delete_op(dentry):
                dentry.d_count = 0
                return
        dentry = dentry_kill(dentry)


def dentry_kill(dentry: Dentry) -> Dentry | None:
    """Frees an unused dentry; answers the parent, whose reference the caller must drop."""
    parent = dentry.d_parent
    __dentry_kill(dentry)
    return None if parent is dentry else parent


def __dentry_kill(dentry: Dentry) -> None:
    dentry.d_count = 0
    __d_drop(dentry)
    dentry.d_flags |= DCACHE_DENTRY_KILLED
    if dentry.d_inode is not None:
        dentry_unlink_inode(dentry)
    d_release = dentry.d_op.d_release
    if d_release is not None:
        d_release(dentry)
    dentry.d_sb.kernel.vfs.nr_dentry -= 1
    dentry_free(dentry)


def dentry_free(dentry: Dentry) -> None:
    """Its memory goes after a grace period: walks without references may stand on it."""
    if dentry.d_flags & DCACHE_NORCU:
        __d_free(dentry)
    else:
        call_rcu(dentry, __d_free)


def __d_free(dentry: Dentry) -> None:
    """Nobody stands on it any more. Context: softirq, or task for a dentry that no walk finds."""
    dentry.d_op = no_dentry_operations
    dentry.d_fsdata = None
    kmem_cache_free(dentry.d_sb.kernel.slab.dentry_cache, dentry.slab_address)


def dentry_unlink_inode(dentry: Dentry) -> None:
    """Makes the dentry negative and drops its reference on the inode."""
    inode = dentry.d_inode
    assert inode is not None
    dentry.d_inode = None
    inode.i_dentry.remove(dentry)
    if not inode.i_nlink and inode.i_fsnotify_mask:
        fsnotify_inoderemove(inode)
    d_iput = dentry.d_op.d_iput
    if d_iput is None:
        iput(inode)
    else:
        d_iput(dentry, inode)


# ---- making ------------------------------------------------------------------------------------------------
def __d_alloc(sb: SuperBlock, name: bytes) -> Dentry:
    """An unhashed, negative dentry with d_count 1 that is its own parent."""
    address = kmem_cache_alloc(sb.kernel.slab.dentry_cache, GFP_KERNEL)
    dentry = Dentry(name)
    dentry.slab_address = address
    dentry.d_parent = dentry
    dentry.d_sb = sb
    dentry.d_op = sb.s_d_op or no_dentry_operations
    dentry.d_hashed = False
    sb.kernel.vfs.nr_dentry += 1
    return dentry


def d_alloc(parent: Dentry, name: bytes) -> Dentry:
    """An unhashed, negative child of `parent` with d_count 1. Nobody finds it until d_add()."""
    parent.d_count += 1                      # before the allocation, which may shrink the cache
    try:
        dentry = __d_alloc(parent.d_sb, name)
    except KernelError:
        dput(parent)
        raise
    dentry.d_parent = parent
    return dentry


def d_alloc_parallel(parent: Dentry, name: bytes) -> Dentry:
    """The hashed child, or a new unhashed one to look up. Locks: the parent's i_rwsem."""
    dentry = parent.d_subdirs.get(name)
    if dentry is not None:
        dentry.d_count += 1
        return dentry
    return d_alloc(parent, name)


def d_alloc_anon(sb: SuperBlock) -> Dentry:
    """A dentry without a name or a parent: a root."""
    return __d_alloc(sb, b"/")


def d_alloc_pseudo(sb: SuperBlock, name: bytes) -> Dentry:
    """A dentry that no lookup finds: pipes, sockets, anonymous inodes."""
    dentry = __d_alloc(sb, name)
    dentry.d_flags |= DCACHE_NORCU
    return dentry


def d_alloc_name(parent: Dentry, name: bytes) -> Dentry:
    """d_alloc(), for file systems that fill themselves."""
    return d_alloc(parent, name)


def d_make_root(root_inode: Inode) -> Dentry:
    """The root dentry of a file system. Takes over the reference on the inode."""
    root = d_alloc_anon(root_inode.i_sb)
    d_instantiate(root, root_inode)
    root.d_hashed = True               # IS_ROOT: never "(deleted)"
    return root


def d_set_d_op(dentry: Dentry, op: DentryOperations) -> None:
    """The operations of one dentry, when they are not the file system's."""
    dentry.d_op = op


def __d_instantiate(dentry: Dentry, inode: Inode) -> None:
    inode.i_dentry.append(dentry)
    dentry.d_inode = inode


def d_instantiate(dentry: Dentry, inode: Inode | None) -> None:
    """Gives a negative dentry its inode, whose reference it takes over. A new name is visible from here on."""
    assert dentry.d_inode is None, f"d_instantiate() of {dentry!r}"
    if inode is not None:
        if inode.i_security is not None:
            inode.i_sb.kernel.lsm.security_d_instantiate(dentry, inode)
        __d_instantiate(dentry, inode)


def d_instantiate_new(dentry: Dentry, inode: Inode) -> None:
    """d_instantiate() and the end of I_NEW."""
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_d_instantiate(dentry, inode)
    __d_instantiate(dentry, inode)
    inode.i_state &= ~(I_NEW | I_CREATING)
    wake_up_inode(inode)


def d_tmpfile(dentry: Dentry, inode: Inode) -> None:
    """Makes `dentry` name an inode that has no link (O_TMPFILE)."""
    drop_nlink(inode)
    dentry.d_name = b"#%d" % inode.i_ino
    d_instantiate(dentry, inode)


def __d_rehash(dentry: Dentry) -> None:
    dentry.d_parent.d_subdirs[dentry.d_name] = dentry
    dentry.d_hashed = True


def d_rehash(dentry: Dentry) -> None:
    """Lets lookups find the dentry."""
    if not dentry.d_hashed:
        __d_rehash(dentry)


@notrace
def __d_add(dentry: Dentry, inode: Inode | None) -> None:
    """d_add() and what d_splice_alias() does without an alias."""
    if inode is not None:
        inode.i_dentry.append(dentry)
        dentry.d_inode = inode
    if not dentry.d_hashed:
        __d_rehash(dentry)


def d_add(dentry: Dentry, inode: Inode | None) -> None:
    """Gives the dentry its inode (None: it stays negative) and lets lookups find it."""
    if inode is not None and inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_d_instantiate(dentry, inode)
    __d_add(dentry, inode)


def d_splice_alias(inode: Inode | None, dentry: Dentry) -> Dentry | None:
    """d_add() that keeps a directory's one dentry: an alias elsewhere moves here and is the answer.

    Takes over the reference on the inode. Raises ELOOP if the directory would lie inside itself.
    """
    if inode is not None and inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_d_instantiate(dentry, inode)
    if inode is None or inode.i_mode & S_IFMT != S_IFDIR or not inode.i_dentry:
        __d_add(dentry, inode)
        return None
    alias = inode.i_dentry[0]
    if alias is dentry:
        iput(inode)
        return None
    if alias.d_parent is alias and not alias.d_flags & DCACHE_DISCONNECTED:
        iput(inode)                    # the root of the file system cannot move
        raise KernelError(EIO)
    if d_ancestor(alias, dentry) is not None:
        iput(inode)
        raise KernelError(ELOOP)
    alias.d_count += 1
    old_parent = dget(alias.d_parent)
    __d_move(alias, dentry, False)     # __d_unalias()
    dput(old_parent)
    iput(inode)
    return alias


# ---- finding -----------------------------------------------------------------------------------------------
def __d_lookup_rcu(parent: Dentry, name: bytes) -> Dentry | None:
    """The cached child `name`, without a reference."""
    return parent.d_subdirs.get(name)


def __d_lookup(parent: Dentry, name: bytes) -> Dentry | None:
    """The cached child `name` with a reference."""
    dentry = parent.d_subdirs.get(name)
    if dentry is not None:
        dentry.d_count += 1
    return dentry


def d_lookup(parent: Dentry, name: bytes) -> Dentry | None:
    """The cached child `name` with a reference, or None. It may be negative."""
    return __d_lookup(parent, name)


def d_find_any_alias(inode: Inode) -> Dentry | None:
    """Some dentry of the inode with a reference."""
    if not inode.i_dentry:
        return None
    return dget(inode.i_dentry[0])


def d_find_alias(inode: Inode) -> Dentry | None:
    """A hashed dentry of the inode with a reference; for a directory its only one."""
    for alias in inode.i_dentry:
        if alias.d_hashed or inode.i_mode & S_IFMT == S_IFDIR:
            return dget(alias)
    return None


def d_ancestor(p1: Dentry, p2: Dentry) -> Dentry | None:
    """The child of p1 that is p2 or above it; None if p2 does not lie below p1."""
    p = p2
    while p.d_parent is not p:
        if p.d_parent is p1:
            return p
        p = p.d_parent
    return None


def is_subdir(new_dentry: Dentry, old_dentry: Dentry) -> bool:
    """True if new_dentry is old_dentry or lies below it."""
    return new_dentry is old_dentry or d_ancestor(old_dentry, new_dentry) is not None


# ---- forgetting --------------------------------------------------------------------------------------------
def __d_drop(dentry: Dentry) -> None:
    if dentry.d_hashed:
        dentry.d_hashed = False
        subdirs = dentry.d_parent.d_subdirs
        if subdirs.get(dentry.d_name) is dentry:
            del subdirs[dentry.d_name]


def d_drop(dentry: Dentry) -> None:
    """Hides the dentry from lookups: the next one asks the file system. Users keep it."""
    __d_drop(dentry)


def d_delete(dentry: Dentry) -> None:
    """The name was removed. Used by nobody else: the dentry turns negative. In use: it is unhashed."""
    if dentry.d_count == 1:
        dentry.d_flags &= ~DCACHE_CANT_MOUNT
        dentry_unlink_inode(dentry)
    else:
        __d_drop(dentry)


@may_sleep
def d_invalidate(dentry: Dentry) -> None:
    """The name is stale: hides it and drops unused dentries below, itself too. Mounts below it stay (Linux
    detaches them)."""
    __d_drop(dentry)
    shrink_dcache_parent(dentry)
    if not dentry.d_count and not dentry.d_flags & DCACHE_DENTRY_KILLED:      # found by a walk without references
        dput(dentry_kill(dentry))


@may_sleep
def shrink_dcache_parent(parent: Dentry) -> None:
    """Frees all unused dentries below `parent`."""
    for child in list(parent.d_subdirs.values()):
        if child.d_subdirs:
            shrink_dcache_parent(child)
        if not child.d_count and child.d_hashed and not child.d_flags & DCACHE_MOUNTED:
            dput(dentry_kill(child))


@may_sleep
def shrink_dcache_sb(sb: SuperBlock) -> None:
    """Frees all unused dentries of a file system, then its unused inodes (drop_caches, remount)."""
    if sb_has_root(sb):
        shrink_dcache_parent(sb.s_root)


@may_sleep
def prune_dcache_sb(sb: SuperBlock, nr_to_scan: int) -> int:
    """The shrinker's turn: frees up to nr_to_scan unused dentries and what only they used. Answers how many.

    There is no list of the least used: those that are found first go.
    """
    vfs = sb.kernel.vfs
    before = vfs.nr_dentry
    unused: list[Dentry] = []
    stack = [sb.s_root]
    while stack and len(unused) < nr_to_scan:
        for child in stack.pop().d_subdirs.values():
            if child.d_subdirs:
                stack.append(child)
            elif not child.d_count and child.d_hashed and not child.d_flags & DCACHE_MOUNTED:
                unused.append(child)
    for dentry in unused[:nr_to_scan]:
        if not dentry.d_count and dentry.d_hashed and not dentry.d_flags & DCACHE_DENTRY_KILLED:
            dput(dentry_kill(dentry))
    return before - vfs.nr_dentry


@notrace
def nr_unused_dentries(sb: SuperBlock) -> int:
    """How many dentries prune_dcache_sb() would look at."""
    count = 0
    stack = list(sb.s_root.d_subdirs.values())
    while stack:
        dentry = stack.pop()
        count += not dentry.d_count and dentry.d_hashed
        stack.extend(dentry.d_subdirs.values())
    return count


@may_sleep
def d_prune_aliases(inode: Inode) -> None:
    """Frees the unused dentries of an inode."""
    for alias in list(inode.i_dentry):
        if not alias.d_count:
            dput(dentry_kill(alias))


@may_sleep
def d_genocide(parent: Dentry) -> None:
    """Drops the extra reference that file systems in memory keep on each of their dentries (kill_litter_super)."""
    for child in list(parent.d_subdirs.values()):
        if child.d_subdirs:
            d_genocide(child)
        if child.d_inode is not None and child.d_count > 0:
            child.d_count -= 1


@notrace
def sb_has_root(sb: SuperBlock) -> bool:
    """False while a super block is being filled, and after it was shut down."""
    root: Dentry | None = sb.s_root
    return root is not None


@may_sleep
def shrink_dcache_for_umount(sb: SuperBlock) -> None:
    """Frees every dentry of a file system that nobody uses any more."""
    if not sb_has_root(sb):
        return
    d_genocide_all(sb.s_root)
    sb.s_root = None  # type: ignore[assignment]


@notrace
def d_genocide_all(dentry: Dentry) -> None:
    """Kills the tree below and with `dentry`, children first, whatever their counts."""
    stack = [dentry]
    order = []
    while stack:
        top = stack.pop()
        order.append(top)
        stack.extend(top.d_subdirs.values())
    for top in reversed(order):
        if not top.d_flags & DCACHE_DENTRY_KILLED:
            __dentry_kill(top)


# ---- moving ------------------------------------------------------------------------------------------------
def __d_move(dentry: Dentry, target: Dentry, exchange: bool) -> None:
    """`dentry` takes the place of `target`, which is unhashed (or takes the other's place)."""
    assert not exchange or target.d_inode is not None
    old_parent = dentry.d_parent
    new_parent = target.d_parent
    was_root = old_parent is dentry
    __d_drop(dentry)
    __d_drop(target)
    old_name = dentry.d_name
    dentry.d_name = target.d_name
    if exchange:
        target.d_name = old_name
        dentry.d_parent = new_parent
        target.d_parent = old_parent
        __d_rehash(target)
    else:
        dentry.d_parent = new_parent
        new_parent.d_count += 1
        if was_root:
            dentry.d_flags &= ~DCACHE_DISCONNECTED
    __d_rehash(dentry)
    if not exchange and not was_root:
        old_parent.d_count -= 1
        assert old_parent.d_count, "the caller of __d_move() holds the old parent"


def d_move(dentry: Dentry, target: Dentry) -> None:
    """The dentry cache's part of rename(2). Locks: both directories; takes rename_lock."""
    rename_lock = register.task.kernel.vfs.rename_lock
    _raw_spin_lock(rename_lock)
    __d_move(dentry, target, False)
    _raw_spin_unlock(rename_lock)


def d_exchange(dentry1: Dentry, dentry2: Dentry) -> None:
    """The dentry cache's part of RENAME_EXCHANGE. Locks: as d_move()."""
    rename_lock = register.task.kernel.vfs.rename_lock
    _raw_spin_lock(rename_lock)
    __d_move(dentry1, dentry2, True)
    _raw_spin_unlock(rename_lock)
