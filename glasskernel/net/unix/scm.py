"""What AF_UNIX messages carry: credentials, and files in flight.

Linux: net/unix/scm.c, net/unix/af_unix.c (5.3). Same: a user may have as many files in flight as he may have open;
sockets in flight are counted, for the garbage collector.
Owns: UnixSock.inflight, UserStruct.unix_inflight, UnixState.tot_inflight and gc_inflight_list.
Invariant: u is in gc_inflight_list exactly while u.inflight > 0; tot_inflight is the sum of all u.inflight.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.pid import task_tgid_vnr
from glasskernel.kernel.task import RLIMIT_NOFILE
from glasskernel.lib.errno import ETOOMANYREFS, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock_memory import sock_wfree
from glasskernel.net.scm import ScmCookie, __scm_destroy, scm_fp_dup
from glasskernel.net.socket import socket_file_ops
from glasskernel.net.types import AF_UNIX, SOCK_PASSCRED
from glasskernel.net.unix.types import UnixSkbParms, UnixSock, UnixState, unix_cb, unix_state

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.kernel.pid import UserStruct
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Socket


# ---- counting -------------------------------------------------------------------------------------------------
def unix_get_socket(filp: File) -> UnixSock | None:
    """The AF_UNIX sock behind an open file, or None."""
    if filp.f_op is not socket_file_ops:
        return None
    sock: Socket = filp.private_data
    if sock.ops is None or sock.ops.family != AF_UNIX or sock.sk is None:
        return None
    assert isinstance(sock.sk, UnixSock)
    return sock.sk


def unix_inflight(state: UnixState, user: UserStruct, fp: File) -> None:
    """The file is put into a message."""
    u = unix_get_socket(fp)
    if u is not None:
        if not u.inflight:
            state.gc_inflight_list[u] = None
        u.inflight += 1
        state.tot_inflight += 1
    user.unix_inflight += 1


def unix_notinflight(state: UnixState, user: UserStruct, fp: File) -> None:
    """The file was received, or its message destroyed."""
    u = unix_get_socket(fp)
    if u is not None:
        assert u.inflight
        u.inflight -= 1
        if not u.inflight:
            del state.gc_inflight_list[u]
        state.tot_inflight -= 1
    user.unix_inflight -= 1


@notrace
def too_many_unix_fds(user: UserStruct) -> bool:
    if user.unix_inflight > register.task.signal.rlim[RLIMIT_NOFILE][0]:
        return not capable(CAP_SYS_RESOURCE) and not capable(CAP_SYS_ADMIN)
    return False


def unix_attach_fds(scm: ScmCookie, skb: SkBuff) -> None:
    """The message's files go with the packet, too. Raises ETOOMANYREFS."""
    assert scm.fp is not None and scm.fp.user is not None and isinstance(skb.sk, UnixSock)
    user = scm.fp.user
    if too_many_unix_fds(user):
        raise KernelError(ETOOMANYREFS)
    unix_cb(skb).fp = scm_fp_dup(scm.fp)
    state = unix_state(skb.sk)
    for file in reversed(scm.fp.fp):
        unix_inflight(state, user, file)


def unix_detach_fds(scm: ScmCookie, skb: SkBuff) -> None:
    """The packet's files become the message's."""
    cb = unix_cb(skb)
    scm.fp = cb.fp
    cb.fp = None
    assert scm.fp is not None and scm.fp.user is not None and isinstance(skb.sk, UnixSock)
    state = unix_state(skb.sk)
    for file in reversed(scm.fp.fp):
        unix_notinflight(state, scm.fp.user, file)


@may_sleep
def unix_destruct_scm(skb: SkBuff) -> None:
    """The packet's destructor."""
    if unix_cb(skb).fp is not None:
        scm = ScmCookie()
        unix_detach_fds(scm, skb)
        __scm_destroy(scm)
    sock_wfree(skb)


# ---- credentials ----------------------------------------------------------------------------------------------
def unix_scm_to_skb(scm: ScmCookie, skb: SkBuff, send_fds: bool) -> None:
    """Credentials, and the files for the first packet of a message. Raises ETOOMANYREFS."""
    cb = skb.cb = UnixSkbParms()
    cb.creds = scm.creds
    if send_fds and scm.fp is not None:
        unix_attach_fds(scm, skb)
    skb.destructor = unix_destruct_scm


@notrace
def maybe_add_creds(skb: SkBuff, sock: Socket, other: UnixSock) -> None:
    """The sender's credentials, if one of the two ends wants them (or nobody has accepted the other end yet)."""
    cb = unix_cb(skb)
    if cb.creds is None and (sock.flags & SOCK_PASSCRED or other.sk_socket is None
                             or other.sk_socket.flags & SOCK_PASSCRED):
        task = register.task
        cb.creds = (task_tgid_vnr(task), task.cred.uid, task.cred.gid)
