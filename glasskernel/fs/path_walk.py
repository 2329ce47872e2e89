"""Path walk: from the bytes of a name to a mount and a dentry.

Linux: the first half of fs/namei.c (5.3); the other halves are namei_open.py and namei.py. Same: order of checks,
40 symlinks, `..` stops at the root, mounts are crossed both ways, magic links, LOOKUP_* flags, openat2's RESOLVE_*.
Differs: a walk takes no references until complete_walk(), like rcu-walk, and never falls back to ref-walk:
    only what a slow lookup brought is held (nd.held), because nothing else can go away between two sleeps; what
    did go away is noticed in complete_walk() and answered ENOENT.
Gaps: automounts that another task is waiting for.
Invariant: terminate_walk() runs once for each path_init().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import strncpy_from_user
from glasskernel.fs.dcache import __d_lookup_rcu, d_alloc, d_alloc_parallel, d_invalidate, d_lookup, dput
from glasskernel.fs.file import fdget_raw
from glasskernel.fs.inode import inode_lock, inode_unlock, touch_atime
from glasskernel.fs.mount import __lookup_mnt, mntput
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.types import (
    DCACHE_DENTRY_KILLED,
    DCACHE_MANAGED_DENTRY,
    DCACHE_MOUNTED,
    MAY_EXEC,
    MAY_NOT_BLOCK,
    MNT_ON_DEMAND,
    S_DEAD,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_ISVTX,
    Dentry,
    Inode,
    Mount,
    Path,
)
from glasskernel.kernel.current import register
from glasskernel.lib.errno import (
    EACCES,
    EAGAIN,
    ECHILD,
    EINVAL,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    EXDEV,
    KernelError,
)
from glasskernel.lib.types import UserPtr, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_REMOVEDIR, AT_SYMLINK_FOLLOW = 0x100, 0x200, 0x200, 0x400
AT_NO_AUTOMOUNT, AT_EMPTY_PATH, AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC = 0x800, 0x1000, 0x2000, 0x4000
PATH_MAX, NAME_MAX, MAXSYMLINKS = 4096, 255, 40

LOOKUP_FOLLOW, LOOKUP_DIRECTORY, LOOKUP_AUTOMOUNT, LOOKUP_EMPTY = 0x1, 0x2, 0x4, 0x4000
LOOKUP_DOWN, LOOKUP_PARENT, LOOKUP_REVAL = 0x8000, 0x10, 0x20
LOOKUP_OPEN, LOOKUP_CREATE, LOOKUP_EXCL, LOOKUP_RENAME_TARGET = 0x100, 0x200, 0x400, 0x800
LOOKUP_JUMPED, LOOKUP_ROOT = 0x1000, 0x2000
# openat2(2), newer than 5.3
LOOKUP_NO_SYMLINKS, LOOKUP_NO_MAGICLINKS, LOOKUP_NO_XDEV = 0x10000, 0x20000, 0x40000
LOOKUP_BENEATH, LOOKUP_IN_ROOT, LOOKUP_CACHED = 0x80000, 0x100000, 0x200000
LOOKUP_IS_SCOPED = LOOKUP_BENEATH | LOOKUP_IN_ROOT
_AUTOMOUNT_FLAGS = LOOKUP_PARENT | LOOKUP_DIRECTORY | LOOKUP_OPEN | LOOKUP_CREATE | LOOKUP_AUTOMOUNT

LAST_NORM, LAST_ROOT, LAST_DOT, LAST_DOTDOT, LAST_BIND = range(5)
WALK_FOLLOW, WALK_MORE = 1, 2


class Nameidata:
    """struct nameidata: one path walk. (mnt, dentry) is where it stands, inode is the dentry's."""

    __slots__ = ("dentry", "flags", "held", "inode", "last", "last_slash", "last_type", "mnt", "referenced",
                 "root_dentry", "root_mnt", "total_link_count")
    mnt: Mount
    dentry: Dentry
    inode: Inode
    root_mnt: Mount | None
    root_dentry: Dentry | None

    def __init__(self) -> None:
        self.flags = 0
        self.last = b""
        self.last_type = LAST_ROOT
        self.last_slash = False               # the last component is followed by a slash
        self.total_link_count = 0
        self.referenced = False               # complete_walk() took references that are still the walk's
        self.held: list[Dentry] | None = None
        self.root_mnt = None
        self.root_dentry = None


# ---- names -------------------------------------------------------------------------------------------------
def getname_flags(filename: UserPtr, flags: int) -> bytes:
    """A path from user memory. Raises EFAULT, ENAMETOOLONG, ENOENT (empty, without LOOKUP_EMPTY)."""
    name = strncpy_from_user(filename, PATH_MAX)
    if name is None:
        raise KernelError(ENAMETOOLONG)
    if not name and not flags & LOOKUP_EMPTY:
        raise KernelError(ENOENT)
    return name


def getname(filename: UserPtr) -> bytes:
    """getname_flags() without flags."""
    return getname_flags(filename, 0)


# ---- start and end of a walk -------------------------------------------------------------------------------
def set_root(nd: Nameidata) -> None:
    """Where absolute paths start and `..` stops."""
    root = register.task.fs.root
    nd.root_mnt = root.mnt
    nd.root_dentry = root.dentry


def nd_jump_root(nd: Nameidata) -> None:
    """Goes to the root. Raises EXDEV under RESOLVE_BENEATH and RESOLVE_NO_XDEV."""
    if nd.flags & (LOOKUP_BENEATH | LOOKUP_NO_XDEV):
        if nd.flags & LOOKUP_BENEATH:
            raise KernelError(EXDEV)
        if nd.root_mnt is not None and nd.root_mnt is not nd.mnt:
            raise KernelError(EXDEV)
    if nd.root_mnt is None:
        set_root(nd)
    assert nd.root_mnt is not None and nd.root_dentry is not None
    nd.mnt = nd.root_mnt
    nd.dentry = dentry = nd.root_dentry
    nd.inode = dentry.d_inode  # type: ignore[assignment]
    nd.flags |= LOOKUP_JUMPED


def path_init(nd: Nameidata, dfd: int, name: bytes, flags: int, root: Path | None) -> None:
    """Puts the walk at its start. Raises EBADF, ENOTDIR."""
    nd.flags = flags | LOOKUP_JUMPED | LOOKUP_PARENT
    if root is not None:                                 # LOOKUP_ROOT
        if name and root.dentry.d_inode.i_mode & S_IFMT != S_IFDIR:  # type: ignore[union-attr]
            raise KernelError(ENOTDIR)
        nd.root_mnt = nd.mnt = root.mnt
        nd.root_dentry = nd.dentry = root.dentry
        nd.inode = root.dentry.d_inode  # type: ignore[assignment]
        return
    if name[:1] == b"/" and not flags & LOOKUP_IN_ROOT:
        if flags & (LOOKUP_BENEATH | LOOKUP_NO_XDEV):
            nd.mnt = register.task.fs.pwd.mnt
        nd_jump_root(nd)
        return
    if dfd == AT_FDCWD:
        pwd = register.task.fs.pwd
        if pwd.mnt.mnt_flags & MNT_ON_DEMAND:
            pwd.mnt.mnt_sb.kernel.vfs.mount_now(pwd.mnt)
            pwd = register.task.fs.pwd
        nd.mnt = pwd.mnt
        nd.dentry = dentry = pwd.dentry
    else:
        path = fdget_raw(dfd).f_path
        nd.mnt = path.mnt
        nd.dentry = dentry = path.dentry
        if name and dentry.d_inode.i_mode & S_IFMT != S_IFDIR:  # type: ignore[union-attr]
            raise KernelError(ENOTDIR)
    nd.inode = dentry.d_inode  # type: ignore[assignment]
    if flags & LOOKUP_IS_SCOPED:
        nd.root_mnt = nd.mnt
        nd.root_dentry = nd.dentry


def __legitimize_mnt(mnt: Mount) -> None:
    """One more reference on a mount that a walk without references reached."""
    mnt.mnt_count += 1


def __legitimize_path(nd: Nameidata) -> None:
    """References on where the walk stands. Raises ENOENT if that went away while the walk slept."""
    dentry = nd.dentry
    if dentry.d_inode is not nd.inode or dentry.d_flags & DCACHE_DENTRY_KILLED:
        raise KernelError(ENOENT)
    __legitimize_mnt(nd.mnt)
    dentry.d_count += 1


def unlazy_walk(nd: Nameidata) -> None:
    """The end of walking without references. The root and the links on the way need none here."""
    __legitimize_path(nd)


def complete_walk(nd: Nameidata) -> None:
    """The walk has arrived. Raises ENOENT if the place went away."""
    unlazy_walk(nd)


@may_sleep
def terminate_walk(nd: Nameidata) -> None:
    """Lets go what slow lookups brought, and what complete_walk() took unless it was handed on."""
    if nd.referenced:
        nd.referenced = False
        dput(nd.dentry)
        mntput(nd.mnt)
    held = nd.held
    if held is not None:
        nd.held = None
        for dentry in held:
            dput(dentry)


@notrace
def hold(nd: Nameidata, dentry: Dentry) -> None:
    """The walk owns one reference on the dentry until terminate_walk()."""
    if nd.held is None:
        nd.held = [dentry]
    else:
        nd.held.append(dentry)


@notrace
def hold_place(nd: Nameidata) -> None:
    """The walk is about to sleep, or to allocate: reclaim must not take the dentry where it stands."""
    nd.dentry.d_count += 1
    hold(nd, nd.dentry)


# ---- one component -----------------------------------------------------------------------------------------
def __follow_mount_rcu(nd: Nameidata, mnt: Mount, dentry: Dentry) -> tuple[Mount, Dentry]:
    """Crosses into what is mounted at the dentry, and what is mounted on that. Raises EXDEV (RESOLVE_NO_XDEV)."""
    while dentry.d_flags & DCACHE_MANAGED_DENTRY:
        mounted = __lookup_mnt(mnt, dentry)
        if mounted is None:
            mounted = follow_automount(nd, mnt, dentry)
        if mounted is None:
            break
        if nd.flags & LOOKUP_NO_XDEV:
            raise KernelError(EXDEV)
        mnt = mounted
        dentry = mounted.mnt_root
    return mnt, dentry


@may_sleep
def follow_automount(nd: Nameidata, mnt: Mount, dentry: Dentry) -> Mount | None:
    """Mounts what belongs at the dentry, unless the walk only wants to look at it. None: nothing does."""
    d_automount = dentry.d_op.d_automount
    if d_automount is None or not nd.flags & _AUTOMOUNT_FLAGS:
        return None
    return d_automount(Path(mnt, dentry))


def lookup_fast(nd: Nameidata) -> Dentry | None:
    """The cached, still valid child nd.last, or None. It may be negative."""
    dentry = __d_lookup_rcu(nd.dentry, nd.last)
    if dentry is None:
        return None
    d_revalidate = dentry.d_op.d_revalidate
    if d_revalidate is not None and not d_revalidate(dentry):
        d_invalidate(dentry)
        return None
    return dentry


@may_sleep
def lookup_slow(name: bytes, dir: Dentry) -> Dentry:
    """Asks the file system for a child. Answers a dentry, perhaps negative, with a reference."""
    if len(name) > NAME_MAX:
        raise KernelError(ENAMETOOLONG)
    inode = dir.d_inode
    assert inode is not None
    inode_lock(inode)
    try:
        return __lookup_slow(name, dir, inode)
    finally:
        inode_unlock(inode)


@may_sleep
def __lookup_slow(name: bytes, dir: Dentry, inode: Inode) -> Dentry:
    """lookup_slow() with the directory locked."""
    if inode.i_flags & S_DEAD:
        raise KernelError(ENOENT)
    while True:
        dentry = d_alloc_parallel(dir, name)
        if not dentry.d_hashed:
            break
        d_revalidate = dentry.d_op.d_revalidate
        if d_revalidate is None or d_revalidate(dentry):
            return dentry
        d_invalidate(dentry)
        dput(dentry)
    return lookup_real(inode, dentry)


@notrace
def lookup_real(inode: Inode, dentry: Dentry) -> Dentry:
    """Calls ->lookup() for a fresh dentry, whose reference it takes over. A miss is cached as a negative dentry."""
    try:
        old = inode.i_op.lookup(inode, dentry)
    except BaseException:
        dput(dentry)
        raise
    if old is not None:
        dput(dentry)
        return old
    if not dentry.d_hashed and dentry.d_inode is None:
        dentry.d_parent.d_subdirs[dentry.d_name] = dentry     # d_add(dentry, NULL)
        dentry.d_hashed = True
    return dentry


def follow_dotdot_rcu(nd: Nameidata) -> None:
    """`..`: up in the file system, or out of the mount; at the root nothing happens."""
    if nd.root_mnt is None:
        set_root(nd)
    root_mnt, root_dentry = nd.root_mnt, nd.root_dentry
    mnt, dentry = nd.mnt, nd.dentry
    while True:
        if dentry is root_dentry and mnt is root_mnt:
            if nd.flags & LOOKUP_BENEATH:
                raise KernelError(EXDEV)
            break
        if dentry is not mnt.mnt_root:
            dentry = dentry.d_parent
            break
        if mnt.mnt_parent is mnt:
            break
        if nd.flags & LOOKUP_NO_XDEV:
            raise KernelError(EXDEV)
        dentry = mnt.mnt_mountpoint
        mnt = mnt.mnt_parent
    if dentry.d_flags & DCACHE_MOUNTED:
        mnt, dentry = __follow_mount_rcu(nd, mnt, dentry)
    nd.mnt = mnt
    nd.dentry = dentry
    nd.inode = dentry.d_inode  # type: ignore[assignment]


@may_sleep
def walk_component(nd: Nameidata, flags: int) -> Dentry | None:
    """One step to nd.last. Answers a symlink to follow (with WALK_FOLLOW or LOOKUP_FOLLOW), or None: done.

    Raises ENOENT, and what the lookup raises.
    """
    if nd.last_type:
        if nd.last_type == LAST_DOTDOT:
            follow_dotdot_rcu(nd)
        return None
    dentry = lookup_fast(nd)
    if dentry is None:
        if nd.flags & LOOKUP_CACHED:
            raise KernelError(EAGAIN)
        hold_place(nd)
        dentry = lookup_slow(nd.last, nd.dentry)
        hold(nd, dentry)
    inode = dentry.d_inode
    if inode is None:
        raise KernelError(ENOENT)
    return step_into(nd, dentry, inode, flags)


@notrace
def step_into(nd: Nameidata, dentry: Dentry, inode: Inode, flags: int) -> Dentry | None:
    """Goes to a child, across its mounts; or answers it when it is a symlink to follow."""
    if dentry.d_flags & DCACHE_MANAGED_DENTRY:
        nd.mnt, dentry = __follow_mount_rcu(nd, nd.mnt, dentry)
        inode = dentry.d_inode  # type: ignore[assignment]
    if inode.i_op.get_link is not None and inode.i_mode & S_IFMT == S_IFLNK and (
            flags & WALK_FOLLOW or nd.flags & LOOKUP_FOLLOW):
        return dentry                                     # pick_link()
    nd.dentry = dentry
    nd.inode = inode
    return None


@notrace
def may_follow_link(nd: Nameidata, inode: Inode) -> None:
    """sysctl fs.protected_symlinks, for a last component in a sticky, world-writable directory. Raises EACCES."""
    if not inode.i_sb.kernel.vfs.protected_symlinks or register.task.cred.fsuid == inode.i_uid:
        return
    parent = nd.inode
    if parent.i_mode & (S_ISVTX | 0o002) != S_ISVTX | 0o002 or parent.i_uid == inode.i_uid:
        return
    raise KernelError(EACCES)


@may_sleep
def trailing_symlink(nd: Nameidata, link: Dentry) -> bytes:
    """get_link() for a last component."""
    assert link.d_inode is not None
    may_follow_link(nd, link.d_inode)
    return get_link(nd, link)


@may_sleep
@notrace
def get_link(nd: Nameidata, link: Dentry) -> bytes:
    """The text of a symlink to walk on with; a magic link or a leading slash moves the walk first.

    Raises ELOOP after 40 links and for forbidden ones.
    """
    nd.total_link_count += 1
    if nd.total_link_count > MAXSYMLINKS or nd.flags & LOOKUP_NO_SYMLINKS:
        raise KernelError(ELOOP)
    inode = link.d_inode
    assert inode is not None
    hold_place(nd)                                       # what follows may sleep
    link.d_count += 1
    hold(nd, link)
    touch_atime(Path(nd.mnt, link))
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_inode_follow_link(link, inode)
    nd.last_type = LAST_BIND
    text = inode.i_link
    if text is None:
        get = inode.i_op.get_link
        assert get is not None
        answer = get(link, inode)
        if isinstance(answer, Path):
            nd_jump_link(nd, answer)
            return b""
        text = answer
    if not text:
        raise KernelError(ENOENT)
    if text[0] == 47:
        nd_jump_root(nd)
    return text


def nd_jump_link(nd: Nameidata, path: Path) -> None:
    """Goes where a magic link of /proc points. `path` is borrowed: whoever owns it keeps its references."""
    flags = nd.flags
    if flags & LOOKUP_NO_MAGICLINKS or flags & LOOKUP_IS_SCOPED:
        raise KernelError(ELOOP if flags & LOOKUP_NO_MAGICLINKS else EXDEV)
    if flags & LOOKUP_NO_XDEV and path.mnt is not nd.mnt:
        raise KernelError(EXDEV)
    if path.mnt.mnt_flags & MNT_ON_DEMAND:               # a working directory that was not looked at yet
        path.mnt.mnt_sb.kernel.vfs.mount_now(path.mnt)
        path = Path(path.mnt, path.mnt.mnt_root)
    nd.mnt = path.mnt
    nd.dentry = path.dentry
    nd.inode = path.dentry.d_inode  # type: ignore[assignment]
    nd.flags |= LOOKUP_JUMPED


# ---- all components ----------------------------------------------------------------------------------------
@may_sleep
@notrace
def may_lookup(nd: Nameidata) -> None:
    """May the caller search here? A security module may have to sleep for its answer: then the place is held."""
    try:
        inode_permission(nd.inode, MAY_EXEC | MAY_NOT_BLOCK)
    except KernelError as error:
        if error.errno != ECHILD:
            raise
        hold_place(nd)                                   # unlazy_walk()
        inode_permission(nd.inode, MAY_EXEC)


@may_sleep
def link_path_walk(name: bytes, nd: Nameidata) -> None:
    """Walks all but the last component, which is left in nd.last and nd.last_type.

    Raises ENOENT, ENOTDIR, EACCES, ELOOP and what lookups raise.
    """
    parts = [part for part in name.split(b"/") if part]
    if not parts:
        if nd.last_type != LAST_BIND:
            nd.last_type = LAST_ROOT
        return
    nd.last_slash = name[-1] == 47
    parts.reverse()
    stack: list[list[bytes]] = []                        # what is left of the paths around nested symlinks
    while True:
        if nd.inode.i_security is None:
            inode_permission(nd.inode, MAY_EXEC)         # may_lookup()
        else:
            may_lookup(nd)
        part = parts.pop()
        nd.last = part
        nd.last_type = LAST_NORM
        if part[0] == 46:
            if part == b".":
                nd.last_type = LAST_DOT
            elif part == b"..":
                nd.last_type = LAST_DOTDOT
                nd.flags |= LOOKUP_JUMPED
        if not parts:
            if not stack:
                return
            parts = stack.pop()                          # never empty: only rests are pushed
        link = walk_component(nd, WALK_FOLLOW)
        if link is not None:
            text = get_link(nd, link)
            body = [part for part in text.split(b"/") if part]
            if body:
                body.reverse()
                stack.append(parts)
                parts = body
        if nd.inode.i_mode & S_IFMT != S_IFDIR:
            raise KernelError(ENOTDIR)


@may_sleep
def path_lookupat(nd: Nameidata, dfd: int, name: bytes, flags: int, root: Path | None) -> Path:
    """The whole walk. Answers the path with references."""
    path_init(nd, dfd, name, flags, root)
    try:
        text = name
        while True:
            link_path_walk(text, nd)
            # lookup_last()
            if nd.last_type == LAST_NORM and nd.last_slash:
                nd.flags |= LOOKUP_FOLLOW | LOOKUP_DIRECTORY
            nd.flags &= ~LOOKUP_PARENT
            link = walk_component(nd, 0)
            if link is None:
                break
            nd.flags |= LOOKUP_PARENT
            text = trailing_symlink(nd, link)
            if not text:
                break                                    # a magic link went there itself
        if nd.flags & LOOKUP_DIRECTORY and nd.inode.i_mode & S_IFMT != S_IFDIR:
            raise KernelError(ENOTDIR)
        complete_walk(nd)
        return Path(nd.mnt, nd.dentry)
    finally:
        terminate_walk(nd)


@may_sleep
def filename_lookup(dfd: int, name: bytes, flags: int, root: Path | None = None) -> Path:
    """The path that `name` leads to, with references: the caller ends it with path_put().

    flags: LOOKUP_FOLLOW, LOOKUP_DIRECTORY ... Raises ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EBADF.
    """
    return path_lookupat(Nameidata(), dfd, name, flags, root)


@may_sleep
def path_parentat(nd: Nameidata, dfd: int, name: bytes, flags: int) -> Path:
    """The walk up to the last component."""
    path_init(nd, dfd, name, flags, None)
    try:
        link_path_walk(name, nd)
        complete_walk(nd)
        return Path(nd.mnt, nd.dentry)
    finally:
        terminate_walk(nd)


@may_sleep
def filename_parentat(dfd: int, name: bytes, flags: int) -> tuple[Path, bytes, int, bool]:
    """(parent with references, last component, LAST_*, "a slash follows")."""
    nd = Nameidata()
    parent = path_parentat(nd, dfd, name, flags)
    return parent, nd.last, nd.last_type, nd.last_slash and nd.last_type == LAST_NORM


@may_sleep
def user_path_at_empty(dfd: int, name: UserPtr, flags: int) -> Path:
    """user_path_at() that takes LOOKUP_EMPTY."""
    return filename_lookup(dfd, getname_flags(name, flags), flags)


@may_sleep
@notrace
def user_path_at(dfd: int, name: UserPtr, flags: int) -> Path:
    """The path that a name in user memory leads to, with references. Raises what filename_lookup() raises, EFAULT."""
    return user_path_at_empty(dfd, name, flags)


@may_sleep
def kern_path(_kernel: Kernel, name: bytes, flags: int = LOOKUP_FOLLOW) -> Path:
    """The path that `name` leads to from the caller's root, with references."""
    if not name:
        raise KernelError(ENOENT)
    return filename_lookup(AT_FDCWD, name, flags)


@may_sleep
def vfs_path_lookup(dentry: Dentry, mnt: Mount, name: bytes, flags: int) -> Path:
    """A walk whose root is a dentry of a mount."""
    return filename_lookup(AT_FDCWD, name, flags, Path(mnt, dentry))


@may_sleep
def follow_up(path: Path) -> bool:
    """From the root of a mount to its mountpoint; moves the references. False at the top."""
    mnt = path.mnt
    parent = mnt.mnt_parent
    if parent is mnt:
        return False
    parent.mnt_count += 1
    mountpoint = mnt.mnt_mountpoint
    mountpoint.d_count += 1
    dput(path.dentry)
    mntput(mnt)
    path.mnt = parent
    path.dentry = mountpoint
    return True


@may_sleep
def follow_down(path: Path) -> None:
    """From a mountpoint to what is mounted there, topmost; moves the references."""
    while path.dentry.d_flags & DCACHE_MOUNTED:
        mounted = __lookup_mnt(path.mnt, path.dentry)
        if mounted is None:
            break
        mounted.mnt_count += 1
        dput(path.dentry)
        mntput(path.mnt)
        path.mnt = mounted
        path.dentry = mounted.mnt_root
        path.dentry.d_count += 1


# ---- one name in one directory -----------------------------------------------------------------------------
@may_sleep
def lookup_dcache(name: bytes, dir: Dentry) -> Dentry | None:
    """The cached, still valid child with a reference, or None."""
    dentry = d_lookup(dir, name)
    if dentry is None:
        return None
    d_revalidate = dentry.d_op.d_revalidate
    if d_revalidate is not None and not d_revalidate(dentry):
        d_invalidate(dentry)
        dput(dentry)
        return None
    return dentry


@may_sleep
def __lookup_hash(name: bytes, base: Dentry) -> Dentry:
    """The child, cached or asked for, with a reference; it may be negative. Locks: the directory's i_rwsem."""
    dentry = lookup_dcache(name, base)
    if dentry is not None:
        return dentry
    if len(name) > NAME_MAX:
        raise KernelError(ENAMETOOLONG)
    inode = base.d_inode
    assert inode is not None
    if inode.i_flags & S_DEAD:
        raise KernelError(ENOENT)
    return lookup_real(inode, d_alloc(base, name))


@notrace
def lookup_one_len_common(name: bytes, base: Dentry) -> None:
    """The name of one component? Raises EACCES otherwise."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise KernelError(EACCES)
    assert base.d_inode is not None
    inode_permission(base.d_inode, MAY_EXEC)


@may_sleep
def lookup_one_len(name: bytes, base: Dentry) -> Dentry:
    """A child with a reference, for file systems on file systems. Locks: the directory's i_rwsem. May be negative."""
    lookup_one_len_common(name, base)
    return __lookup_hash(name, base)


@may_sleep
def lookup_one_len_unlocked(name: bytes, base: Dentry) -> Dentry:
    """lookup_one_len() that takes the lock itself when it must."""
    lookup_one_len_common(name, base)
    dentry = lookup_dcache(name, base)
    return lookup_slow(name, base) if dentry is None else dentry


@notrace
def is_dir(dentry: Dentry) -> bool:
    """True for a positive dentry of a directory."""
    inode = dentry.d_inode
    return inode is not None and inode.i_mode & S_IFMT == S_IFDIR


@notrace
def check_lookup_flags(flags: int, allowed: int) -> None:
    """Raises EINVAL if a system call was given a flag it does not know."""
    if flags & ~allowed:
        raise KernelError(EINVAL)
