"""Names of AF_UNIX sockets: files, abstract names, names that the kernel chooses.

Linux: net/unix/af_unix.c (5.3), its address half. Same: a path is a file that mknod makes and nobody removes; an
abstract name begins with a NUL and belongs to the namespace and the socket's type.
Owns: UnixNet.sockets and abstract, UnixState.by_inode.
Invariants: UnixNet.sockets holds a reference on each; a sock is in by_inode exactly while sk.path is its file, which
the path keeps.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.inode import touch_atime
from glasskernel.fs.mount import mntget, path_put
from glasskernel.fs.namei import done_path_create, kern_path_create, vfs_mknod
from glasskernel.fs.path_walk import kern_path
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.types import MAY_WRITE, S_IFMT, S_IFSOCK, Path
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import mutex_lock_interruptible, mutex_unlock
from glasskernel.lib.errno import EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOSPC, EPROTOTYPE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.types import AF_UNIX
from glasskernel.net.unix.types import SIZEOF_SOCKADDR_UN, SUN_PATH, UnixSock, unix_net, unix_state

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode
    from glasskernel.net.types import Net, Socket

AT_FDCWD = -100
_FAMILY = AF_UNIX.to_bytes(2, "little")


def unix_mkname(sunaddr: bytes) -> bytes:
    """A checked address: a path ends with its NUL, an abstract name is as long as it is. Raises EINVAL."""
    if not SUN_PATH < len(sunaddr) <= SIZEOF_SOCKADDR_UN or sunaddr[:2] != _FAMILY:
        raise KernelError(EINVAL)
    if sunaddr[SUN_PATH]:
        return sunaddr[:SUN_PATH] + sunaddr[SUN_PATH:].split(b"\0", 1)[0] + b"\0"
    return sunaddr


@notrace
def is_abstract(addr: bytes) -> bool:
    return not addr[SUN_PATH]


# ---- finding --------------------------------------------------------------------------------------------------
def unix_find_socket_byinode(net: Net, inode: Inode) -> UnixSock | None:
    """Who is bound to this file, with a reference."""
    assert net.kernel.net is not None
    u: UnixSock | None = net.kernel.net.unix.by_inode.get(inode)
    if u is not None:
        u.sk_refcnt += 1
    return u


@may_sleep
def unix_find_other(net: Net, sunname: bytes, kind: int) -> UnixSock:
    """The socket with this name, with a reference. Raises ECONNREFUSED, EPROTOTYPE, and what the path walk raises."""
    if is_abstract(sunname):
        other: UnixSock | None = net.unx.abstract.get((kind, sunname))
        if other is None:
            raise KernelError(ECONNREFUSED)
        other.sk_refcnt += 1
        if other.path is not None:
            touch_atime(other.path)
        return other
    path = kern_path(net.kernel, sunname[SUN_PATH:-1])
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        inode_permission(inode, MAY_WRITE)
        other = unix_find_socket_byinode(net, inode) if inode.i_mode & S_IFMT == S_IFSOCK else None
        if other is None:
            raise KernelError(ECONNREFUSED)
        if other.sk_type != kind:
            other.sk_refcnt -= 1                   # not the last one: it is bound
            raise KernelError(EPROTOTYPE)
        touch_atime(path)
        return other
    finally:
        path_put(path)


# ---- binding --------------------------------------------------------------------------------------------------
@may_sleep
def unix_mknod(sun_path: bytes, mode: int) -> Path:
    """Makes the file of a name; answers where, with references. Raises EEXIST, and what the walk and mknod raise."""
    path, dentry = kern_path_create(register.task.kernel, AT_FDCWD, sun_path)
    try:
        dir_ = path.dentry.d_inode
        assert dir_ is not None
        vfs_mknod(dir_, dentry, mode, 0)
        dentry.d_count += 1
        return Path(mntget(path.mnt), dentry)
    finally:
        done_path_create(path, dentry)


@may_sleep
def unix_bind(sock: Socket, uaddr: bytes) -> None:
    """->bind(). Raises EINVAL (bound already, no address), EADDRINUSE, and what mknod raises."""
    u = sock.sk
    assert isinstance(u, UnixSock)
    if len(uaddr) < SUN_PATH or uaddr[:2] != _FAMILY:
        raise KernelError(EINVAL)
    if len(uaddr) == SUN_PATH:
        unix_autobind(sock)
        return
    addr = unix_mkname(uaddr)
    path: Path | None = None
    if not is_abstract(addr):
        umask = register.task.fs.umask
        try:
            path = unix_mknod(addr[SUN_PATH:-1], S_IFSOCK | sock.inode.i_mode & 0o777 & ~umask)
        except KernelError as error:
            if error.errno == EEXIST:
                raise KernelError(EADDRINUSE) from None
            raise
    try:
        mutex_lock_interruptible(u.bindlock)
        try:
            if u.addr:
                raise KernelError(EINVAL)
            if path is None and (u.sk_type, addr) in unix_net(u).abstract:
                raise KernelError(EADDRINUSE)
            unix_insert_socket(u, addr, path)
        finally:
            mutex_unlock(u.bindlock)
    except KernelError:
        if path is not None:
            path_put(path)
        raise


@may_sleep
def unix_autobind(sock: Socket) -> None:
    """A free abstract name of five hexadecimal digits, if the socket has no name. Raises ENOSPC, Restart."""
    u = sock.sk
    assert isinstance(u, UnixSock)
    state = unix_state(u)
    mutex_lock_interruptible(u.bindlock)
    try:
        if u.addr:
            return
        for _ in range(1 << 20):
            addr = _FAMILY + b"\0%05x" % state.ordernum
            state.ordernum = state.ordernum + 1 & 0xFFFFF
            if (u.sk_type, addr) not in unix_net(u).abstract:
                unix_insert_socket(u, addr, None)
                return
        raise KernelError(ENOSPC)
    finally:
        mutex_unlock(u.bindlock)


def unix_insert_socket(u: UnixSock, addr: bytes, path: Path | None) -> None:
    """The sock gets its name, and the reference on its file."""
    u.addr = addr
    u.path = path
    if path is None:
        unix_net(u).abstract[u.sk_type, addr] = u
    else:
        assert path.dentry.d_inode is not None
        unix_state(u).by_inode[path.dentry.d_inode] = u


def unix_remove_socket(u: UnixSock) -> None:
    """The sock is found no more; the caller has a reference. Its path is the caller's to drop."""
    net = unix_net(u)
    del net.sockets[u]
    u.sk_refcnt -= 1
    if not u.addr:
        return
    if u.path is None:
        if net.abstract.get((u.sk_type, u.addr)) is u:           # what was accepted has its listener's name
            del net.abstract[u.sk_type, u.addr]
        return
    assert u.path.dentry.d_inode is not None
    by_inode = unix_state(u).by_inode
    if by_inode.get(u.path.dentry.d_inode) is u:
        del by_inode[u.path.dentry.d_inode]
