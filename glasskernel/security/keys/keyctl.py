"""add_key(2), request_key(2) and keyctl(2).

Linux: security/keys/keyctl.c, request_key.c (5.3). Same: arguments, permissions, errors.
Gaps: request_key() calls no /sbin/request-key: what is not found is ENOKEY; with it KEYCTL_INSTANTIATE, NEGATE,
    REJECT and ASSUME_AUTHORITY (EPERM: nobody has the authority); SESSION_TO_PARENT, GET_PERSISTENT, DH_COMPUTE and
    public keys (EOPNOTSUPP).
Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, strncpy_from_user
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import (
    EACCES,
    EAGAIN,
    EDQUOT,
    EEXIST,
    EINVAL,
    ENODEV,
    ENOKEY,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    KernelError,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, s32, size_t, to_s32, ulong
from glasskernel.security.keys.key import (
    KEY_TYPES,
    current_uid_gid,
    key_alloc,
    key_default_perm,
    key_invalidate,
    key_permission,
    key_put,
    key_revoke,
    key_task_permission,
    key_type_keyring,
    key_update,
    key_user_lookup,
    key_user_put,
    keyring_clear_links,
    keys_state,
    quota_of,
)
from glasskernel.security.keys.keyring import (
    KeyRef,
    install_process_keyring,
    install_thread_keyring,
    join_session_keyring,
    key_link,
    key_unlink,
    keyring_search_aux,
    lookup_user_key,
    search_process_keyrings,
    valid_perm,
)
from glasskernel.security.keys.types import (
    KEY_LINK,
    KEY_MAX_DESC_SIZE,
    KEY_READ,
    KEY_REQKEY_DEFL_NO_CHANGE,
    KEY_REQKEY_DEFL_PROCESS_KEYRING,
    KEY_REQKEY_DEFL_THREAD_KEYRING,
    KEY_REQKEY_DEFL_USER_SESSION_KEYRING,
    KEY_SEARCH,
    KEY_SETATTR,
    KEY_VIEW,
    KEY_WRITE,
    Key,
    KeyType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECOND_NS = 1_000_000_000
_MAX_PAYLOAD = 1 << 20


@contextmanager
@notrace
def _user_key(serial: int, create: bool, wanted: int, partial: bool = False) -> Iterator[KeyRef]:
    ref = lookup_user_key(to_s32(serial), create, wanted, partial)
    try:
        yield ref
    finally:
        key_put(ref[0])


@notrace
def _string(pointer: int, size: int) -> bytes:
    """strndup_user(). Errors: EFAULT, EINVAL (too long)."""
    text = strncpy_from_user(pointer, size)
    if text is None or len(text) >= size:
        raise KernelError(EINVAL)
    return text


@notrace
def _type_from_user(pointer: int) -> KeyType:
    """Errors: EFAULT, EINVAL, EPERM (a type of the kernel's), ENODEV (no such type)."""
    name = _string(pointer, 32)
    if not name:
        raise KernelError(EINVAL)
    if name.startswith(b"."):
        raise KernelError(EPERM)
    kind = KEY_TYPES.get(name)
    if kind is None:
        raise KernelError(ENODEV)
    return kind


@syscall(gaps="key types other than user, logon and keyring")
def sys_add_key(_type: UserPtr, _description: UserPtr, _payload: UserPtr, plen: size_t, ringid: s32) -> int:
    """add_key(2): makes a key in a keyring, or updates the one that is there. Answers its number.

    Errors: EINVAL, EFAULT, ENODEV, EPERM, EACCES, EDQUOT, ENOKEY.
    """
    if plen > _MAX_PAYLOAD - 1:
        raise KernelError(EINVAL)
    kind = _type_from_user(_type)
    description = _string(_description, KEY_MAX_DESC_SIZE) if _description else b""
    if not description:
        raise KernelError(EINVAL)
    if description.startswith(b".") and kind is key_type_keyring:
        raise KernelError(EPERM)
    payload = copy_from_user(_payload, plen) if plen else b""
    with _user_key(ringid, True, KEY_WRITE) as (keyring, possessed):
        return key_create_or_update(keyring, possessed, kind, description, payload).serial


def key_create_or_update(keyring: Key, possessed: bool, kind: KeyType, description: bytes, payload: bytes) -> Key:
    """Errors: ENOTDIR, EACCES, EDQUOT, EINVAL."""
    if not keyring.type.keyring:
        raise KernelError(ENOTDIR)
    kind.preparse(payload)
    key_permission(keyring, possessed, KEY_WRITE)
    old = keyring.links.get((kind.name, description))
    if old is not None and kind.updatable and not old.revoked and not old.invalidated:
        key_permission(old, possessed, KEY_WRITE)
        key_update(old, payload)
        return old
    uid, gid = current_uid_gid()
    key = key_alloc(current().kernel, kind, description, uid, gid, key_default_perm(kind), payload)
    try:
        key_link(keyring, key)
    finally:
        key_put(key)
    return key


@syscall(gaps="no upcall to /sbin/request-key: ENOKEY")
def sys_request_key(_type: UserPtr, _description: UserPtr, _callout_info: UserPtr, destringid: s32) -> int:
    """request_key(2): looks for a key where the process may look, and links it where it wants it.

    Errors: ENOKEY, EKEYREVOKED, EKEYEXPIRED, EACCES, EFAULT, EINVAL.
    """
    kind = _type_from_user(_type)
    description = _string(_description, KEY_MAX_DESC_SIZE)
    if _callout_info:
        _string(_callout_info, 4096)
    key = search_process_keyrings(kind, description)
    if destringid:
        with _user_key(destringid, True, KEY_WRITE) as (keyring, _):
            key_link(keyring, key)
    return key.serial


# ---- keyctl(2): one function a command ---------------------------------------------------------------------
def keyctl_get_keyring_ID(ringid: int, create: int) -> int:
    with _user_key(ringid, bool(create), KEY_SEARCH) as (key, _):
        return key.serial


def keyctl_join_session_keyring(name_pointer: int) -> int:
    name = _string(name_pointer, KEY_MAX_DESC_SIZE) if name_pointer else None
    if name is not None and name.startswith(b"."):
        raise KernelError(EPERM)
    return join_session_keyring(name)


def keyctl_update_key(serial: int, payload_pointer: int, plen: int) -> int:
    if plen > 4096:
        raise KernelError(EINVAL)
    payload = copy_from_user(payload_pointer, plen) if plen else b""
    with _user_key(serial, False, KEY_WRITE) as (key, _):
        key_update(key, payload)
    return 0


def keyctl_revoke_key(serial: int) -> int:
    try:
        ref = lookup_user_key(to_s32(serial), False, KEY_WRITE)
    except KernelError as error:
        if error.errno != EACCES:
            raise
        ref = lookup_user_key(to_s32(serial), False, KEY_SETATTR)
    key_revoke(ref[0])
    key_put(ref[0])
    return 0


def keyctl_invalidate_key(serial: int) -> int:
    with _user_key(serial, False, KEY_SEARCH) as (key, _):
        key_invalidate(key)
    return 0


def keyctl_keyring_clear(ringid: int) -> int:
    with _user_key(ringid, True, KEY_WRITE) as (keyring, _):
        if not keyring.type.keyring:
            raise KernelError(ENOTDIR)
        keyring_clear_links(keyring)
    return 0


def keyctl_keyring_link(serial: int, ringid: int) -> int:
    with _user_key(ringid, True, KEY_WRITE) as (keyring, _), _user_key(serial, True, KEY_LINK) as (key, _):
        key_link(keyring, key)
    return 0


def keyctl_keyring_unlink(serial: int, ringid: int) -> int:
    with _user_key(ringid, False, KEY_WRITE) as (keyring, _), _user_key(serial, False, 0, True) as (key, _):
        key_unlink(keyring, key)
    return 0


def keyctl_keyring_move(serial: int, from_ring: int, to_ring: int, flags: int) -> int:
    """5.3: in one step. flags 1 (KEYCTL_MOVE_EXCL): EEXIST instead of displacing."""
    if flags & ~1:
        raise KernelError(EINVAL)
    with (_user_key(serial, True, KEY_LINK) as (key, _), _user_key(from_ring, False, KEY_WRITE) as (source, _),
          _user_key(to_ring, True, KEY_WRITE) as (target, _)):
        if flags and (key.type.name, key.description) in target.links:
            raise KernelError(EEXIST)
        if source.links.get((key.type.name, key.description)) is not key:
            raise KernelError(ENOKEY)
        key_link(target, key)
        key_unlink(source, key)
    return 0


def keyctl_describe_key(serial: int, buffer: int, size: int) -> int:
    """"type;uid;gid;perm;description"; answers its size with the zero behind it."""
    with _user_key(serial, False, KEY_VIEW, True) as (key, _):
        text = b"%b;%d;%d;%08x;%b\0" % (key.type.name, key.uid, key.gid, key.perm, key.description)
    if buffer and size >= len(text):
        copy_to_user(buffer, text)
    return len(text)


def keyctl_keyring_search(ringid: int, type_pointer: int, description_pointer: int, destringid: int) -> int:
    kind = _type_from_user(type_pointer)
    description = _string(description_pointer, KEY_MAX_DESC_SIZE)
    with _user_key(ringid, False, KEY_SEARCH) as (keyring, possessed):
        if not keyring.type.keyring:
            raise KernelError(ENOTDIR)
        try:
            key = keyring_search_aux(keyring, possessed, kind, description)
        except KernelError as error:
            raise KernelError(ENOKEY if error.errno == EAGAIN else error.errno) from None
        if destringid:
            with _user_key(destringid, True, KEY_WRITE) as (target, _):
                key_permission(key, possessed, KEY_LINK)
                key_link(target, key)
        return key.serial


def keyctl_read_key(serial: int, buffer: int, size: int) -> int:
    """The payload, or a keyring's numbers; answers its whole size. Errors: EACCES, EOPNOTSUPP."""
    with _user_key(serial, False, 0) as (key, possessed):
        if not key_task_permission(key, possessed, KEY_READ) and not (
                possessed and key_task_permission(key, possessed, KEY_SEARCH)):
            raise KernelError(EACCES)
        if not key.type.readable:
            raise KernelError(EOPNOTSUPP)
        data = key.payload
        if key.type.keyring:
            data = b"".join(k.serial.to_bytes(4, "little") for k in key.links.values())
        if buffer and size:
            copy_to_user(buffer, data[:size])
        return len(data)


def keyctl_chown_key(serial: int, uid: int, gid: int) -> int:
    """Errors: EACCES (not the caller's own, or not a group of his), EDQUOT."""
    with _user_key(serial, True, KEY_SETATTR, True) as (key, _):
        kernel, cred = key.kernel, current().cred
        user, group = to_s32(uid), to_s32(gid)
        if not capable(CAP_SYS_ADMIN):
            if user not in (-1, key.uid):
                raise KernelError(EACCES)
            if group not in (-1, key.gid, cred.fsgid) and group not in cred.groups:
                raise KernelError(EACCES)
        if user not in (-1, key.uid):
            new, old = key_user_lookup(kernel, user), keys_state(kernel).users[key.uid]
            if key.in_quota:
                maxkeys, maxbytes = quota_of(keys_state(kernel), user)
                if new.qnkeys + 1 > maxkeys or new.qnbytes + key.quotalen > maxbytes:
                    key_user_put(kernel, new)
                    raise KernelError(EDQUOT)
                new.qnkeys, new.qnbytes = new.qnkeys + 1, new.qnbytes + key.quotalen
                old.qnkeys, old.qnbytes = old.qnkeys - 1, old.qnbytes - key.quotalen
            new.nkeys, new.nikeys = new.nkeys + 1, new.nikeys + 1
            old.nkeys, old.nikeys = old.nkeys - 1, old.nikeys - 1
            key.uid = user
            key_user_put(kernel, old)
        if group != -1:
            key.gid = group
    return 0


def keyctl_setperm_key(serial: int, perm: int) -> int:
    valid_perm(perm)
    with _user_key(serial, True, KEY_SETATTR, True) as (key, _):
        if not capable(CAP_SYS_ADMIN) and key.uid != current().cred.fsuid:
            raise KernelError(EACCES)
        key.perm = perm
    return 0


def keyctl_set_reqkey_keyring(reqkey_defl: int) -> int:
    """Answers what it was."""
    wanted = to_s32(reqkey_defl)
    old = current().cred.jit_keyring
    if wanted == KEY_REQKEY_DEFL_NO_CHANGE:
        return old
    if not 0 <= wanted <= KEY_REQKEY_DEFL_USER_SESSION_KEYRING:
        raise KernelError(EINVAL)
    if wanted == KEY_REQKEY_DEFL_THREAD_KEYRING:
        install_thread_keyring()
    elif wanted == KEY_REQKEY_DEFL_PROCESS_KEYRING:
        install_process_keyring()
    new = prepare_creds()
    new.jit_keyring = wanted
    commit_creds(new)
    return old


def keyctl_set_timeout(serial: int, timeout: int) -> int:
    """Seconds from now; 0: for ever."""
    with _user_key(serial, True, KEY_SETATTR, True) as (key, _):
        key.expiry = ktime_get_real() // _SECOND_NS + timeout if timeout else 0
    return 0


def keyctl_get_security(serial: int, buffer: int, size: int) -> int:
    """A key's label with its NUL; without a security module an empty one."""
    with _user_key(serial, False, KEY_VIEW, True) as (key, _):
        context = b"\0" if key.security is None else key.kernel.lsm.security_key_getsecurity(key)
        if buffer and size:
            copy_to_user(buffer, context[:size])
    return len(context)


def keyctl_capabilities(buffer: int, size: int) -> int:
    """5.3: which commands work: none of the optional ones but INVALIDATE and MOVE."""
    capabilities = bytes((0x01 | 0x20 | 0x80, 0))  # KEYCTL_CAPS0_CAPABILITIES | _INVALIDATE | _MOVE
    if buffer and size:
        copy_to_user(buffer, capabilities[:size])
    return len(capabilities)


@notrace
def _no_authority(*_arguments: int) -> int:
    raise KernelError(EPERM)


KEYCTL: dict[int, tuple[Callable[..., int], int]] = {          # command: (function, arguments)
    0: (keyctl_get_keyring_ID, 2), 1: (keyctl_join_session_keyring, 1), 2: (keyctl_update_key, 3),
    3: (keyctl_revoke_key, 1), 4: (keyctl_chown_key, 3), 5: (keyctl_setperm_key, 2), 6: (keyctl_describe_key, 3),
    7: (keyctl_keyring_clear, 1), 8: (keyctl_keyring_link, 2), 9: (keyctl_keyring_unlink, 2),
    10: (keyctl_keyring_search, 4), 11: (keyctl_read_key, 3), 12: (_no_authority, 4), 13: (_no_authority, 3),
    14: (keyctl_set_reqkey_keyring, 1), 15: (keyctl_set_timeout, 2), 16: (_no_authority, 1),
    17: (keyctl_get_security, 3), 19: (_no_authority, 4), 20: (_no_authority, 4), 21: (keyctl_invalidate_key, 1),
    30: (keyctl_keyring_move, 4), 31: (keyctl_capabilities, 2),
}


@syscall(gaps="instantiation, persistent keyrings, Diffie-Hellman and public keys")
def sys_keyctl(option: int, arg2: ulong, arg3: ulong, arg4: ulong, arg5: ulong) -> int:
    """keyctl(2). Errors: EOPNOTSUPP for what is not known, and those of the command."""
    entry = KEYCTL.get(option)
    if entry is None:
        raise KernelError(EOPNOTSUPP)
    function, count = entry
    return function(*(arg2, arg3, arg4, arg5)[:count])
