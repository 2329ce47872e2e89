"""Files of selinuxfs that answer questions about contexts: access, create, member, relabel, context, user.

Linux: sel_write_access() ... of security/selinux/selinuxfs.c (5.3). Same: the text of questions and answers (contexts
    end with a NUL), the permission that each needs. Classes are the policy's.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.libfs_transaction import (
    SIMPLE_TRANSACTION_LIMIT,
    simple_transaction_get,
    simple_transaction_read,
    simple_transaction_release,
    simple_transaction_set,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import FileOperations
from glasskernel.lib.errno import EINVAL, EPERM, ERANGE, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.av_permissions import (
    SECURITY__CHECK_CONTEXT,
    SECURITY__COMPUTE_AV,
    SECURITY__COMPUTE_CREATE,
    SECURITY__COMPUTE_MEMBER,
    SECURITY__COMPUTE_RELABEL,
    SECURITY__COMPUTE_USER,
    SECURITY__VALIDATE_TRANS,
)
from glasskernel.security.selinux.avc import avc_has_perm
from glasskernel.security.selinux.flask import SECCLASS_SECURITY, SECINITSID_SECURITY
from glasskernel.security.selinux.objsec import current_sid
from glasskernel.security.selinux.ss.services import (
    security_change_sid,
    security_compute_av_user,
    security_context_to_sid,
    security_member_sid,
    security_sid_to_context,
    security_transition_sid_user,
    security_validate_transition_user,
)
from glasskernel.security.selinux.ss.services_user import security_get_user_sids

if TYPE_CHECKING:
    from glasskernel.fs.types import Kiocb
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.security.selinux.types import SelinuxState


@notrace
def may(state: SelinuxState, permission: int) -> None:
    """The permission of class security that a question needs. Raises EACCES."""
    avc_has_perm(state, current_sid(), SECINITSID_SECURITY, SECCLASS_SECURITY, permission, None)


@notrace
def _words(data: bytes, least: int, most: int) -> list[bytes]:
    """The words of a question. Raises EINVAL."""
    words = data.split(b"\0", 1)[0].split()[:most]
    if len(words) < least:
        raise KernelError(EINVAL)
    return words


@notrace
def _class_number(word: bytes) -> int:
    """sscanf("%hu"). Raises EINVAL."""
    digits = re.match(rb"\d+", word)
    if digits is None:
        raise KernelError(EINVAL)
    return int(digits[0]) & 0xFFFF


@notrace
def _two_sids(state: SelinuxState, data: bytes) -> tuple[int, int, int]:
    """`SOURCE TARGET CLASS`. Raises EINVAL."""
    scon, tcon, tclass = _words(data, 3, 3)
    number = _class_number(tclass)
    return security_context_to_sid(state, scon), security_context_to_sid(state, tcon), number


@notrace
def _text_of(state: SelinuxState, sid: int) -> bytes:
    """A context as an answer."""
    return security_sid_to_context(state, sid) + b"\0"


def sel_write_context(state: SelinuxState, data: bytes) -> bytes:
    """`CONTEXT`: the same in the policy's words."""
    may(state, SECURITY__CHECK_CONTEXT)
    return _text_of(state, security_context_to_sid(state, data))


def sel_write_access(state: SelinuxState, data: bytes) -> bytes:
    """`SOURCE TARGET CLASS`: the access vectors in hexadecimal, the policy's number, flags."""
    may(state, SECURITY__COMPUTE_AV)
    avd = security_compute_av_user(state, *_two_sids(state, data))
    return b"%x %x %x %x %u %x" % (avd.allowed, 0xFFFFFFFF, avd.auditallow, avd.auditdeny, avd.seqno, avd.flags)


def sel_write_create(state: SelinuxState, data: bytes) -> bytes:
    """`SOURCE TARGET CLASS [NAME]`: the context of a new object; in NAME, + is a space and %XX any character."""
    may(state, SECURITY__COMPUTE_CREATE)
    scon, tcon, tclass, *names = _words(data, 3, 4)
    objname = None
    if names:
        if re.search(rb"%(?![0-9A-Fa-f]{2})", names[0]):
            raise KernelError(EINVAL)
        objname = re.sub(rb"%(..)", lambda code: bytes([int(code[1], 16)]), names[0].replace(b"+", b" "))
    ssid, tsid = security_context_to_sid(state, scon), security_context_to_sid(state, tcon)
    return _text_of(state, security_transition_sid_user(state, ssid, tsid, _class_number(tclass), objname))


def sel_write_relabel(state: SelinuxState, data: bytes) -> bytes:
    """`SOURCE TARGET CLASS`: the context of an object that a session takes."""
    may(state, SECURITY__COMPUTE_RELABEL)
    return _text_of(state, security_change_sid(state, *_two_sids(state, data)))


def sel_write_member(state: SelinuxState, data: bytes) -> bytes:
    """`SOURCE TARGET CLASS`: the context of a member of a polyinstantiated object. Raises ERANGE."""
    may(state, SECURITY__COMPUTE_MEMBER)
    return _text_of(state, security_member_sid(state, *_two_sids(state, data)))


def sel_write_user(state: SelinuxState, data: bytes) -> bytes:
    """`CONTEXT USER`: how many contexts the user may have from there, and all of them. Raises ERANGE."""
    may(state, SECURITY__COMPUTE_USER)
    con, user = _words(data, 2, 2)
    sids = security_get_user_sids(state, security_context_to_sid(state, con), user)
    return b"%x\0" % len(sids) + b"".join(_text_of(state, sid) for sid in sids)


def sel_write_validatetrans(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter(): `OLD NEW CLASS TASK`. Raises EPERM if such a change of a label is against a rule."""
    state = _state(iocb)
    count = source.count
    may(state, SECURITY__VALIDATE_TRANS)
    oldcon, newcon, tclass, taskcon = _words(source.copy_from_iter(count), 4, 4)
    oldsid, newsid, tasksid = (security_context_to_sid(state, context) for context in (oldcon, newcon, taskcon))
    if security_validate_transition_user(state, oldsid, newsid, tasksid, _class_number(tclass)) is not None:
        raise KernelError(EPERM)
    return count


@notrace
def _state(iocb: Kiocb) -> SelinuxState:
    state = iocb.ki_filp.f_path.dentry.d_sb.kernel.selinux
    assert state is not None
    return state


def selinux_transaction_write(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter(): the question. i_private is the function that answers. Raises EBUSY, EFBIG, ERANGE and its errors.
    """
    count = source.count
    file = iocb.ki_filp
    data = simple_transaction_get(file, source)
    write_op: Callable[[SelinuxState, bytes], bytes] = file.f_inode.i_private
    answer = write_op(_state(iocb), data)
    if len(answer) > SIMPLE_TRANSACTION_LIMIT:
        raise KernelError(ERANGE)
    simple_transaction_set(file, answer)
    return count


transaction_ops = FileOperations(
    write_iter=selinux_transaction_write, read_iter=simple_transaction_read, release=simple_transaction_release,
    llseek=generic_file_llseek)
sel_transition_ops = FileOperations(write_iter=sel_write_validatetrans, llseek=generic_file_llseek)
