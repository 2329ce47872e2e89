"""Keys: making, finding, charging, permissions, garbage.

Linux: security/keys/key.c, permission.c, gc.c, user_defined.c (5.3). Same: quotas, serial numbers at random, a key
without users is collected by a worker, after a grace period of RCU.
Owns: KeysState. Context: task; key_put(): any.
Gaps: key types other than user, logon and keyring; expired keys stay until they are unlinked.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current, register
from glasskernel.kernel.rcu.update import synchronize_rcu
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import (
    EACCES,
    EDQUOT,
    EINVAL,
    EKEYEXPIRED,
    EKEYREVOKED,
    ENOKEY,
    EOPNOTSUPP,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.keys.types import (
    KEY_GRP,
    KEY_LINK,
    KEY_POS,
    KEY_READ,
    KEY_SEARCH,
    KEY_SETATTR,
    KEY_USR,
    KEY_VIEW,
    KEY_WRITE,
    MAX_DATA,
    Key,
    KeysState,
    KeyType,
    KeyUser,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_SECOND_NS = 1_000_000_000
DEFAULT_PERM = (KEY_VIEW | KEY_SEARCH | KEY_LINK | KEY_SETATTR) << KEY_POS | KEY_VIEW << KEY_USR


# ---- types -------------------------------------------------------------------------------------------------
def user_preparse(data: bytes) -> None:
    """Errors: EINVAL."""
    if not 0 < len(data) <= MAX_DATA:
        raise KernelError(EINVAL)


def user_describe(key: Key) -> bytes:
    return b": %d" % len(key.payload) if key.instantiated else b""


def logon_vet_description(description: bytes) -> None:
    """Errors: EINVAL unless it has a prefix."""
    if description.find(b":") < 1:
        raise KernelError(EINVAL)


def keyring_preparse(data: bytes) -> None:
    if data:
        raise KernelError(EINVAL)


def keyring_describe(key: Key) -> bytes:
    return b": %d" % len(key.links) if key.links else b": empty"


key_type_user = KeyType(b"user", user_preparse, user_describe, readable=True, updatable=True)
key_type_logon = KeyType(b"logon", user_preparse, user_describe, updatable=True)
key_type_keyring = KeyType(b"keyring", keyring_preparse, keyring_describe, readable=True, keyring=True)
KEY_TYPES = {t.name: t for t in (key_type_user, key_type_logon, key_type_keyring)}


# ---- state -------------------------------------------------------------------------------------------------
@notrace
def keys_state(kernel: Kernel) -> KeysState:
    """kernel.keys, made by the first who wants a key."""
    if kernel.keys is None:
        work = WorkStruct(key_garbage_collector)
        kernel.keys = KeysState(key_put, work)
        work.data = kernel
    return kernel.keys


def key_user_lookup(kernel: Kernel, uid: int) -> KeyUser:
    """The account of a user, with a reference."""
    users = keys_state(kernel).users
    user = users.get(uid)
    if user is None:
        user = users[uid] = KeyUser(uid)
    user.usage += 1
    return user


def key_user_put(kernel: Kernel, user: KeyUser) -> None:
    user.usage -= 1
    if not user.usage:
        del keys_state(kernel).users[user.uid]


# ---- making ------------------------------------------------------------------------------------------------
def key_alloc_serial(state: KeysState, kernel: Kernel) -> int:
    """A number at random that nobody has."""
    serial = max(int.from_bytes(kernel.machine.random_bytes(4), "little") >> 1, 3)
    while serial in state.serials:
        serial = serial + 1 & 0x7FFF_FFFF or 3
    return serial


def key_alloc(kernel: Kernel, kind: KeyType, description: bytes, uid: int, gid: int, perm: int, payload: bytes = b"",
              in_quota: bool = True) -> Key:
    """A new key with one reference. Errors: EINVAL, EDQUOT."""
    kind.preparse(payload)
    if kind is key_type_logon:
        logon_vet_description(description)
    state = keys_state(kernel)
    user = key_user_lookup(kernel, uid)
    size = len(description) + 1 + len(payload)
    if in_quota:
        maxkeys, maxbytes = quota_of(state, uid)
        if user.qnkeys + 1 > maxkeys or user.qnbytes + size > maxbytes:
            key_user_put(kernel, user)
            raise KernelError(EDQUOT)
        user.qnkeys += 1
        user.qnbytes += size
    key = Key(kernel, key_alloc_serial(state, kernel), kind, description, uid, gid, perm, payload=payload,
              in_quota=in_quota, quotalen=size)
    if kernel.lsm is not None:
        kernel.lsm.security_key_alloc(key, register.task.cred)
    user.nkeys += 1
    state.serials[key.serial] = key
    key.instantiated = True                        # __key_instantiate_and_link(): the payload is at hand
    user.nikeys += 1
    return key


@notrace
def quota_of(state: KeysState, uid: int) -> tuple[int, int]:
    """(keys, bytes) that a user may have."""
    return (state.maxkeys, state.maxbytes) if uid else (state.root_maxkeys, state.root_maxbytes)


def key_payload_reserve(key: Key, datalen: int) -> None:
    """Charges the difference to a payload of another size. Errors: EDQUOT."""
    state = keys_state(key.kernel)
    delta = len(key.description) + 1 + datalen - key.quotalen
    if key.in_quota:
        user = state.users[key.uid]
        if delta > 0 and user.qnbytes + delta > quota_of(state, key.uid)[1]:
            raise KernelError(EDQUOT)
        user.qnbytes += delta
    key.quotalen += delta


def key_update(key: Key, payload: bytes) -> None:
    """Another payload. Errors: EOPNOTSUPP, EINVAL, EDQUOT."""
    if not key.type.updatable:
        raise KernelError(EOPNOTSUPP)
    key.type.preparse(payload)
    key_payload_reserve(key, len(payload))
    key.payload = payload
    key.expiry = 0


# ---- finding -----------------------------------------------------------------------------------------------
def key_lookup(kernel: Kernel, serial: int) -> Key:
    """By number, with a reference. Errors: ENOKEY."""
    key = keys_state(kernel).serials.get(serial)
    if key is None or key.dead or not key.usage:
        raise KernelError(ENOKEY)
    key.usage += 1
    return key


def key_validate(key: Key) -> None:
    """Errors: ENOKEY (invalidated), EKEYREVOKED, EKEYEXPIRED."""
    if key.invalidated:
        raise KernelError(ENOKEY)
    if key.revoked or key.dead:
        raise KernelError(EKEYREVOKED)
    if key.expiry and ktime_get_real() // _SECOND_NS >= key.expiry:
        raise KernelError(EKEYEXPIRED)


def key_task_permission(key: Key, possessed: bool, wanted: int) -> bool:
    """True if the caller may do all that: as owner, group member or other, and as possessor on top."""
    cred = register.task.cred
    if key.uid == cred.fsuid:
        allowed = key.perm >> KEY_USR
    elif key.perm >> KEY_GRP & 0x3F and key.gid != -1 and (key.gid == cred.fsgid or key.gid in cred.groups):
        allowed = key.perm >> KEY_GRP
    else:
        allowed = key.perm
    if possessed:
        allowed |= key.perm >> KEY_POS
    if wanted & ~allowed & 0x3F:
        return False
    if key.security is None:
        return True
    try:
        key.kernel.lsm.security_key_permission(key, cred, wanted & 0x3F)
    except KernelError:
        return False
    return True


@notrace
def key_permission(key: Key, possessed: bool, wanted: int) -> None:
    """Errors: EACCES."""
    if not key_task_permission(key, possessed, wanted):
        raise KernelError(EACCES)


@notrace
def key_default_perm(kind: KeyType) -> int:
    """Who may do what with a key that add_key() makes."""
    perm = DEFAULT_PERM
    if kind.readable:
        perm |= KEY_READ << KEY_POS
    if kind.updatable or kind.keyring:
        perm |= KEY_WRITE << KEY_POS
    return perm


# ---- the end -----------------------------------------------------------------------------------------------
def key_put(key: Key | None) -> None:
    """Drops a reference; the last one lets the collector have it. Context: any."""
    if key is not None:
        key.usage -= 1
        if not key.usage:
            schedule_work(keys_state(key.kernel).gc_work)


def key_revoke(key: Key) -> None:
    """Nobody can use it any more; a keyring loses its links."""
    key.revoked = True
    if key.type.keyring:
        keyring_clear_links(key)


def key_invalidate(key: Key) -> None:
    """As if it had never been: the collector takes it off its keyrings."""
    key.invalidated = True
    schedule_work(keys_state(key.kernel).gc_work)


def keyring_clear_links(keyring: Key) -> None:
    """Unlinks everything."""
    links = list(keyring.links.values())
    keyring.links.clear()
    for key in links:
        key_put(key)


@may_sleep
def key_garbage_collector(work: WorkStruct) -> None:
    """Unlinks invalidated keys, and frees keys without users when no reader can see them. Context: worker."""
    kernel: Kernel = work.data
    state = keys_state(kernel)
    while True:
        for keyring in state.serials.values():
            for name, key in list(keyring.links.items()):
                if key.invalidated:
                    del keyring.links[name]
                    key.usage -= 1
        unused = [key for key in state.serials.values() if not key.usage]
        if not unused:
            return
        for key in unused:
            del state.serials[key.serial]
        synchronize_rcu()
        key_gc_unused_keys(state, unused)


def key_gc_unused_keys(state: KeysState, keys: list[Key]) -> None:
    """Gives their memory and their share of the quota back; what they link loses a reference."""
    for key in keys:
        user = state.users[key.uid]
        if key.in_quota:
            user.qnkeys -= 1
            user.qnbytes -= key.quotalen
        user.nkeys -= 1
        user.nikeys -= key.instantiated
        key_user_put(key.kernel, user)
        links, key.links, key.payload = list(key.links.values()), {}, b""
        for linked in links:
            linked.usage -= 1


@notrace
def current_uid_gid() -> tuple[int, int]:
    cred = current().cred
    return cred.fsuid, cred.fsgid
