"""Sockets as files: sockfs, making and releasing them, their file operations.

Linux: net/socket.c (5.3), its first half. Same: an inode and a file for each, "socket:[INO]", order of the checks.
System calls: socket_calls.py, socket_options.py and socket_messages.py (sendmsg and its family).
Owns: Socket, NetState.sock_mnt and net_families. Invariant: sock.file is the file whose private_data it is, from
sock_alloc_file() to its last fput().
Gaps: sendpage (what is spliced is copied), SIOCGSKNS, bridges and VLANs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u32, put_user_u32
from glasskernel.fs.attr import simple_setattr
from glasskernel.fs.d_path import dynamic_dname
from glasskernel.fs.dentry_open import stream_open
from glasskernel.fs.fcntl_signal import f_getown, f_setown, fasync_helper
from glasskernel.fs.file import __fdget, fd_install, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import alloc_file_pseudo, fput
from glasskernel.fs.inode import (
    get_next_ino,
    inode_from,
    inode_lock,
    inode_unlock,
    iput,
    new_inode_pseudo,
)
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.read_write import no_llseek
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import (
    ATTR_UID,
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    S_IFSOCK,
    DentryOperations,
    FileOperations,
    FileSystemType,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.current import register
from glasskernel.lib.errno import (
    EAFNOSUPPORT,
    EEXIST,
    EINVAL,
    ENODATA,
    ENOIOCTLCMD,
    ENOTSOCK,
    ENOTTY,
    ESPIPE,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace, to_s32
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_HWCACHE_ALIGN, SLAB_RECLAIM_ACCOUNT
from glasskernel.mm.slub import kmem_cache_free
from glasskernel.net.core.sock import lock_sock, release_sock
from glasskernel.net.init import request_family, task_net
from glasskernel.net.types import (
    AF_INET,
    AF_PACKET,
    MSG_DONTWAIT,
    MSG_EOR,
    NPROTO,
    SOCK_MAX,
    SOCK_PACKET,
    SOCK_SEQPACKET,
    SS_UNCONNECTED,
    MsgHdr,
    Socket,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Iattr, Inode, Kiocb, PollTable, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import VmAreaStruct
    from glasskernel.net.types import Net, NetProtoFamily, NetState

SOCKFS_MAGIC = 0x534F434B
SIZEOF_SOCKET_ALLOC = 832
FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP = 0x8901, 0x8902, 0x8903, 0x8904
SIOCGSTAMP_OLD, SIOCGSTAMPNS_OLD, SIOCGSTAMP_NEW, SIOCGSTAMPNS_NEW = 0x8906, 0x8907, 0x80108906, 0x80108907
XATTR_SOCKPROTONAME = b"system.sockprotoname"


@notrace
def _state() -> NetState:
    state = register.task.kernel.net
    assert state is not None
    return state


# ---- sockfs ------------------------------------------------------------------------------------------------------
def sock_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode(): the inode and its socket."""
    state = sb.kernel.net
    assert state is not None and state.sock_inode_cachep is not None
    inode = inode_from(sb, state.sock_inode_cachep)
    inode.i_private = Socket(SS_UNCONNECTED, 0, inode)
    return inode


def sock_free_inode(inode: Inode) -> None:
    """->free_inode()"""
    state = inode.i_sb.kernel.net
    assert state is not None and state.sock_inode_cachep is not None
    kmem_cache_free(state.sock_inode_cachep, inode.slab_address)


def sockfs_dname(dentry: Dentry) -> bytes:
    """->d_dname()"""
    return dynamic_dname(dentry, b"socket")


def sockfs_xattr_get(inode: Inode, name: bytes) -> bytes:
    """->getxattr(): the protocol's name, which the dentry has. Raises ENODATA."""
    if name != XATTR_SOCKPROTONAME:
        raise KernelError(ENODATA)
    return inode.i_dentry[0].d_name + b"\0"


def sockfs_listxattr(dentry: Dentry) -> list[bytes]:
    """->listxattr()"""
    return [XATTR_SOCKPROTONAME]


def sockfs_setattr(dentry: Dentry, iattr: Iattr) -> None:
    """->setattr(): fchown(2) of a socket changes whose it is for the network, too."""
    simple_setattr(dentry, iattr)
    if iattr.ia_valid & ATTR_UID:
        assert dentry.d_inode is not None
        sock: Socket = dentry.d_inode.i_private
        if sock.sk is not None:
            sock.sk.sk_uid = iattr.ia_uid


sockfs_dentry_operations = DentryOperations(d_dname=sockfs_dname)
sockfs_inode_ops = InodeOperations(listxattr=sockfs_listxattr, getxattr=sockfs_xattr_get, setattr=sockfs_setattr)
sockfs_ops = SuperOperations(statfs=simple_statfs, alloc_inode=sock_alloc_inode, free_inode=sock_free_inode)


def sockfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()"""
    return init_pseudo(kernel, fs_type, SOCKFS_MAGIC, sockfs_ops, sockfs_dentry_operations)


sock_fs_type = FileSystemType(b"sockfs", sockfs_mount, kill_anon_super)


def sock_init(kernel: Kernel) -> None:
    """The first socket is about to be made: mounts sockfs."""
    state = kernel.net
    assert state is not None
    state.sock_inode_cachep = kmem_cache_create(
        kernel, b"sock_inode_cache", SIZEOF_SOCKET_ALLOC, 0, SLAB_HWCACHE_ALIGN | SLAB_RECLAIM_ACCOUNT)
    state.sock_mnt = kern_mount(kernel, sock_fs_type)


def sock_register(kernel: Kernel, ops: NetProtoFamily) -> None:
    """A family exists from now on. Raises EEXIST."""
    state = kernel.net
    assert state is not None
    if ops.family in state.net_families:
        raise KernelError(EEXIST)
    state.net_families[ops.family] = ops


# ---- making and releasing ----------------------------------------------------------------------------------------
def sock_alloc() -> Socket:
    """A socket of no family yet, with its inode."""
    inode = new_inode_pseudo(_state().sock_mnt.mnt_sb)
    inode.i_ino = get_next_ino()
    inode.i_mode = S_IFSOCK | 0o777
    cred = register.task.cred
    inode.i_uid, inode.i_gid = cred.fsuid, cred.fsgid
    inode.i_op = sockfs_inode_ops
    sock: Socket = inode.i_private
    return sock


@may_sleep
def __sock_create(net: Net, family: int, type_: int, protocol: int, kern: bool) -> Socket:
    """A socket of a family. Raises EAFNOSUPPORT, EINVAL, and what the family says."""
    if not 0 <= family < NPROTO:
        raise KernelError(EAFNOSUPPORT)
    if not 0 <= type_ < SOCK_MAX:
        raise KernelError(EINVAL)
    if family == AF_INET and type_ == SOCK_PACKET:
        net.kernel.printk(f"{register.task.comm.decode()} uses obsolete (PF_INET,SOCK_PACKET)", 6)
        family = AF_PACKET
    families = _state().net_families
    lsm = net.kernel.lsm
    if lsm is not None:
        lsm.security_socket_create(family, type_, protocol, kern)
    if family not in families:
        request_family(net.kernel, family)
    sock = sock_alloc()
    sock.type = type_
    try:
        if family not in families:
            raise KernelError(EAFNOSUPPORT)
        families[family].create(net, sock, protocol, kern)
    except KernelError:
        sock.ops = None  # type: ignore[assignment]
        sock_release(sock)
        raise
    if lsm is not None:
        try:
            lsm.security_socket_post_create(sock, family, type_, protocol, kern)
        except KernelError:
            sock_release(sock)
            raise
    return sock


@notrace
@may_sleep
def sock_create(family: int, type_: int, protocol: int) -> Socket:
    """A socket for the running program (in its network namespace)."""
    return __sock_create(task_net(register.task), family, type_, protocol, False)


@may_sleep
def sock_create_kern(net: Net, family: int, type_: int, protocol: int) -> Socket:
    """A socket of the kernel's: it does not keep the namespace alive."""
    return __sock_create(net, family, type_, protocol, True)


def sock_create_lite(family: int, type_: int, protocol: int) -> Socket:
    """A socket whose sk and ops the caller brings."""
    sock = sock_alloc()
    sock.type = type_
    return sock


@may_sleep
def sock_release(sock: Socket) -> None:
    """Ends a socket without a file."""
    __sock_release(sock, None)


@may_sleep
def __sock_release(sock: Socket, inode: Inode | None) -> None:
    ops = sock.ops
    if ops is not None:
        if inode is not None:
            inode_lock(inode)
        try:
            ops.release(sock)
        finally:
            sock.sk = None  # type: ignore[assignment]
            if inode is not None:
                inode_unlock(inode)
            sock.ops = None  # type: ignore[assignment]
    if sock.fasync_list:
        register.task.kernel.printk("__sock_release: fasync list not empty!", 3)
    if sock.file is None:
        iput(sock.inode)
    else:
        sock.file = None


# ---- files -------------------------------------------------------------------------------------------------------
@may_sleep
def sock_alloc_file(sock: Socket, flags: int, dname: bytes | None) -> File:
    """An open file for the socket (flags: O_NONBLOCK). On failure, ENFILE, the socket is gone."""
    if dname is None:
        dname = sock.sk.sk_prot.name.encode() if sock.sk is not None else b""
    try:
        file = alloc_file_pseudo(sock.inode, _state().sock_mnt, dname, O_RDWR | flags & O_NONBLOCK, socket_file_ops)
    except KernelError:
        sock_release(sock)
        raise
    sock.file = file
    file.private_data = sock
    stream_open(sock.inode, file)
    return file


@notrace
@may_sleep
def sock_map_fd(sock: Socket, flags: int) -> int:
    """A descriptor for a new socket. On failure the socket is gone. Raises EMFILE, ENFILE."""
    try:
        fd = get_unused_fd_flags(flags & O_CLOEXEC)
    except KernelError:
        sock_release(sock)
        raise
    try:
        newfile = sock_alloc_file(sock, flags, None)
    except KernelError:
        put_unused_fd(fd)
        raise
    fd_install(fd, newfile)
    return fd


def sockfd_lookup_light(fd: int) -> tuple[Socket, File | None]:
    """(the socket behind a descriptor, the file if fput_light() has to drop it). Raises EBADF, ENOTSOCK."""
    file = __fdget(fd)
    if file.f_op is not socket_file_ops:
        raise KernelError(ENOTSOCK)
    if register.task.files.count == 1:
        return file.private_data, None
    file.f_count += 1
    return file.private_data, file


@notrace
@may_sleep
def fput_light(file: File | None) -> None:
    """Ends sockfd_lookup_light()."""
    if file is not None:
        fput(file)


@may_sleep
def sock_sendmsg(sock: Socket, msg: MsgHdr) -> int:
    """Sends what msg.msg_iter has left. Answers how many bytes went."""
    if sock.inode.i_security is not None:
        sock.inode.i_sb.kernel.lsm.security_socket_sendmsg(sock)
    return sock.ops.sendmsg(sock, msg, msg.msg_iter.count)


@may_sleep
def sock_recvmsg(sock: Socket, msg: MsgHdr, flags: int) -> int:
    """Receives into msg.msg_iter. flags: MSG_*. Answers how many bytes came."""
    if sock.inode.i_security is not None:
        sock.inode.i_sb.kernel.lsm.security_socket_recvmsg(sock)
    return sock.ops.recvmsg(sock, msg, msg.msg_iter.count, flags)


@may_sleep
def sock_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): recvmsg() without flags."""
    file = iocb.ki_filp
    if iocb.ki_pos:
        raise KernelError(ESPIPE)
    if not to.count:
        return 0                                   # as SYS5 does
    msg = MsgHdr(to)
    msg.msg_iocb = iocb
    if file.f_flags & O_NONBLOCK:
        msg.msg_flags = MSG_DONTWAIT
    return sock_recvmsg(file.private_data, msg, msg.msg_flags)


@may_sleep
def sock_write_iter(iocb: Kiocb, from_: IovIter) -> int:
    """->write_iter(): sendmsg() without flags; a packet of a SOCK_SEQPACKET ends."""
    file = iocb.ki_filp
    if iocb.ki_pos:
        raise KernelError(ESPIPE)
    sock: Socket = file.private_data
    msg = MsgHdr(from_)
    msg.msg_iocb = iocb
    if file.f_flags & O_NONBLOCK:
        msg.msg_flags = MSG_DONTWAIT
    if sock.type == SOCK_SEQPACKET:
        msg.msg_flags |= MSG_EOR
    return sock_sendmsg(sock, msg)


def sock_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    sock: Socket = file.private_data
    return sock.ops.poll(file, sock, wait)


def sock_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap(): packet rings."""
    sock: Socket = file.private_data
    sock.ops.mmap(file, sock, vma)


@may_sleep
def sock_close(inode: Inode, filp: File) -> None:
    """->release()"""
    __sock_release(inode.i_private, inode)


@may_sleep
def sock_fasync(fd: int, filp: File, on: int) -> None:
    """->fasync(). Raises EINVAL when the socket is gone."""
    sock: Socket = filp.private_data
    sk = sock.sk
    if sk is None:
        raise KernelError(EINVAL)
    lock_sock(sk)
    fasync_helper(fd, filp, on, sock.fasync_list)
    release_sock(sk)


def sock_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    sock: Socket = file.private_data
    show = sock.ops.show_fdinfo
    return b"" if show is None else show(sock)


# ---- ioctl -------------------------------------------------------------------------------------------------------
@may_sleep
def sock_do_ioctl(net: Net, sock: Socket, cmd: int, arg: int) -> int:
    """What the family knows, then what devices know (SIOCGIFCONF and its relatives)."""
    try:
        return sock.ops.ioctl(sock, cmd, arg)
    except KernelError as error:
        if error.errno != ENOIOCTLCMD:
            raise
    dev_ioctl = _state().dev_ioctl
    if dev_ioctl is None:
        raise KernelError(ENOTTY)
    return dev_ioctl(net, cmd, arg)


@may_sleep
def sock_ioctl(file: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(): the owner for signals, stamps, then the family and the devices. Raises ENOTTY."""
    sock: Socket = file.private_data
    if cmd in (FIOSETOWN, SIOCSPGRP):
        f_setown(file, to_s32(get_user_u32(arg)))
        return 0
    if cmd in (FIOGETOWN, SIOCGPGRP):
        put_user_u32(arg, f_getown(file))
        return 0
    if cmd in (SIOCGSTAMP_OLD, SIOCGSTAMPNS_OLD, SIOCGSTAMP_NEW, SIOCGSTAMPNS_NEW):
        if sock.ops.gettstamp is None:
            raise KernelError(ENOTTY)
        sock.ops.gettstamp(sock, arg, cmd in (SIOCGSTAMP_OLD, SIOCGSTAMP_NEW))
        return 0
    return sock_do_ioctl(sock.sk.sk_net, sock, cmd, arg)


socket_file_ops = FileOperations(
    llseek=no_llseek, iter=True, read_iter=sock_read_iter, write_iter=sock_write_iter, poll=sock_poll,
    unlocked_ioctl=sock_ioctl, mmap=sock_mmap, release=sock_close, fasync=sock_fasync, show_fdinfo=sock_show_fdinfo)
