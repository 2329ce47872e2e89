"""Keyrings: keys that link keys, and the keyrings that every process has.

Linux: security/keys/keyring.c, process_keys.c (5.3). Same: depth-first search through at most 6 levels, no cycles, a
new key displaces the one of the same type and name; thread, process and session keyrings hang off the credentials, a
user's two keyrings off the account. Differs: the user's keyrings are found in the account, not in .user_reg.
Owns: Key.links. Context: task.
"""
from __future__ import annotations

from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.lib.errno import (
    EACCES,
    EAGAIN,
    EDEADLK,
    EINVAL,
    EKEYEXPIRED,
    EKEYREVOKED,
    ENOENT,
    ENOKEY,
    ENOTDIR,
    KernelError,
)
from glasskernel.lib.types import notrace
from glasskernel.security.keys.key import (
    key_alloc,
    key_lookup,
    key_permission,
    key_put,
    key_task_permission,
    key_type_keyring,
    key_validate,
    keys_state,
)
from glasskernel.security.keys.types import (
    KEY_PERM_ALL,
    KEY_SEARCH,
    KEY_SPEC_PROCESS_KEYRING,
    KEY_SPEC_SESSION_KEYRING,
    KEY_SPEC_THREAD_KEYRING,
    KEY_SPEC_USER_KEYRING,
    KEY_SPEC_USER_SESSION_KEYRING,
    KEYRING_SEARCH_MAX_DEPTH,
    Key,
    KeyType,
    KeyUser,
)

KeyRef = tuple[Key, bool]                          # a key and whether the caller possesses it
POSSESSOR_ALL = 0x3F00_0000
THREAD_PERM = 0x3F01_0000                          # possessor: all; user: view
SESSION_PERM = 0x3F03_0000                         # user: view, read
USER_PERM = 0x1F3F_0000                            # possessor: all but setattr; user: all


def keyring_alloc(description: bytes, uid: int, gid: int, perm: int, in_quota: bool = True) -> Key:
    """A new empty keyring. Errors: EDQUOT."""
    return key_alloc(current().kernel, key_type_keyring, description, uid, gid, perm, in_quota=in_quota)


# ---- links -------------------------------------------------------------------------------------------------
def key_link(keyring: Key, key: Key) -> None:
    """Adds a link, instead of the one to a key of the same type and name. Errors: ENOTDIR, EKEYREVOKED, EDEADLK."""
    if not keyring.type.keyring:
        raise KernelError(ENOTDIR)
    if keyring.revoked:
        raise KernelError(EKEYREVOKED)
    if key.type.keyring:
        keyring_detect_cycle(keyring, key)
    name = (key.type.name, key.description)
    old = keyring.links.get(name)
    if old is key:
        return
    key.usage += 1
    keyring.links[name] = key
    key_put(old)


def keyring_detect_cycle(a: Key, b: Key) -> None:
    """Errors: EDEADLK if `a` is reached from `b`."""
    if a is b:
        raise KernelError(EDEADLK)
    for key in b.links.values():
        if key.type.keyring:
            keyring_detect_cycle(a, key)


def key_unlink(keyring: Key, key: Key) -> None:
    """Takes a link away. Errors: ENOTDIR, ENOENT."""
    if not keyring.type.keyring:
        raise KernelError(ENOTDIR)
    name = (key.type.name, key.description)
    if keyring.links.get(name) is not key:
        raise KernelError(ENOENT)
    del keyring.links[name]
    key_put(key)


# ---- searching ---------------------------------------------------------------------------------------------
def keyring_search_aux(keyring: Key, possessed: bool, kind: KeyType, description: bytes, depth: int = 0) -> Key:
    """The first key of that type and name below a keyring. Errors: EACCES, EAGAIN (none), what ails the one found."""
    if not key_task_permission(keyring, possessed, KEY_SEARCH):
        raise KernelError(EACCES)
    key_validate(keyring)
    worst = EAGAIN
    key = keyring.links.get((kind.name, description))
    if key is not None:
        try:
            key_validate(key)
            if key_task_permission(key, possessed, KEY_SEARCH):
                return key
            worst = EACCES
        except KernelError as error:
            worst = error.errno
    if depth < KEYRING_SEARCH_MAX_DEPTH:
        for below in keyring.links.values():
            if below.type.keyring and key_task_permission(below, possessed, KEY_SEARCH):
                try:
                    return keyring_search_aux(below, possessed, kind, description, depth + 1)
                except KernelError as error:
                    if error.errno in (EKEYEXPIRED, EKEYREVOKED, ENOKEY):
                        worst = error.errno
    raise KernelError(worst)


@notrace
def own_keyrings() -> list[Key]:
    """The caller's keyrings in the order of a search; of a user without a session keyring, his own one."""
    cred = current().cred
    session = cred.session_keyring
    if session is None:
        user = keys_state(current().kernel).users.get(cred.uid)
        session = user.session_keyring if user is not None else None
    return [k for k in (cred.thread_keyring, cred.process_keyring, session) if k is not None]


def search_process_keyrings(kind: KeyType, description: bytes) -> Key:
    """Everywhere that the process may look. Errors: ENOKEY, EKEYREVOKED, EKEYEXPIRED, EACCES."""
    worst = ENOKEY
    for keyring in own_keyrings():
        try:
            return keyring_search_aux(keyring, True, kind, description)
        except KernelError as error:
            if error.errno != EAGAIN:
                worst = error.errno
    raise KernelError(worst)


@notrace
def is_possessed(key: Key) -> bool:
    """True if a search through the caller's own keyrings comes by this very key."""

    def below(keyring: Key, depth: int) -> bool:
        if keyring is key:
            return True
        if not keyring.type.keyring or depth > KEYRING_SEARCH_MAX_DEPTH:
            return False
        if not key_task_permission(keyring, True, KEY_SEARCH):
            return False
        return any(below(k, depth + 1) for k in keyring.links.values())

    return any(below(keyring, 0) for keyring in own_keyrings())


# ---- the keyrings of processes and users -------------------------------------------------------------------
def install_user_keyrings(uid: int) -> KeyUser:
    """_uid.N and _uid_ses.N, which links it."""
    state = keys_state(current().kernel)
    user = state.users.get(uid)
    if user is None or user.uid_keyring is None:
        own = keyring_alloc(b"_uid.%d" % uid, uid, 65534, USER_PERM)
        session = keyring_alloc(b"_uid_ses.%d" % uid, uid, 65534, USER_PERM)
        key_link(session, own)
        user = state.users[uid]
        user.uid_keyring, user.session_keyring = own, session
    return user


def install_thread_keyring() -> Key:
    new = prepare_creds()
    if new.thread_keyring is None:
        new.thread_keyring = keyring_alloc(b"_tid", new.uid, new.gid, THREAD_PERM)
        _install(new.thread_keyring, new)
    keyring: Key = new.thread_keyring
    return keyring


def install_process_keyring() -> Key:
    new = prepare_creds()
    if new.process_keyring is None:
        new.process_keyring = keyring_alloc(b"_pid", new.uid, new.gid, THREAD_PERM)
        _install(new.process_keyring, new)
    keyring: Key = new.process_keyring
    return keyring


def install_session_keyring(keyring: Key | None) -> Key:
    """Replaces the session keyring; None: by a new, empty one."""
    new = prepare_creds()
    if keyring is None:
        keyring = keyring_alloc(b"_ses", new.uid, new.gid, SESSION_PERM)
    else:
        keyring.usage += 1
    new.session_keyring = keyring
    _install(keyring, new)
    return keyring


@notrace
def _install(keyring: Key, new: object) -> None:
    """The credentials take over the caller's reference on the keyring."""
    commit_creds(new)  # type: ignore[arg-type]
    key_put(keyring)


def join_session_keyring(name: bytes | None) -> int:
    """keyctl_join_session_keyring(): a new anonymous one, or the one of that name, made if there is none."""
    if name is None:
        return install_session_keyring(None).serial
    cred = current().cred
    for key in keys_state(current().kernel).serials.values():       # find_keyring_by_name()
        if (key.type.keyring and key.description == name and key.usage and not key.revoked
                and key_task_permission(key, False, KEY_SEARCH)):
            return install_session_keyring(key).serial
    keyring = keyring_alloc(name, cred.uid, cred.gid, 0x3F1B_0000)      # user: view, read, search, link
    serial = install_session_keyring(keyring).serial
    key_put(keyring)
    return serial


def lookup_user_key(serial: int, create: bool, wanted: int, partial: bool = False) -> KeyRef:
    """What a number of user space means, with a reference. wanted: KEY_* that the caller needs.

    Errors: ENOKEY, EACCES, EINVAL, EKEYREVOKED, EKEYEXPIRED.
    """
    cred = current().cred
    possessed = True
    if serial == KEY_SPEC_THREAD_KEYRING:
        key = cred.thread_keyring
        if key is None:
            key = install_thread_keyring() if create else None
    elif serial == KEY_SPEC_PROCESS_KEYRING:
        key = cred.process_keyring
        if key is None:
            key = install_process_keyring() if create else None
    elif serial == KEY_SPEC_SESSION_KEYRING:
        key = cred.session_keyring
        if key is None:
            user = install_user_keyrings(cred.uid)
            key = install_session_keyring(None if create else user.session_keyring)
        elif create and key is keys_state(current().kernel).users[cred.uid].session_keyring:
            key = install_session_keyring(None)    # the user's own is a stopgap (KEY_FLAG_UID_KEYRING)
    elif serial in (KEY_SPEC_USER_KEYRING, KEY_SPEC_USER_SESSION_KEYRING):
        user = install_user_keyrings(cred.uid)
        key = user.uid_keyring if serial == KEY_SPEC_USER_KEYRING else user.session_keyring
    elif serial < 1:
        raise KernelError(EINVAL)
    else:
        key = key_lookup(current().kernel, serial)
        key.usage -= 1
        possessed = is_possessed(key)
    if key is None:
        raise KernelError(ENOKEY)
    if not partial:
        key_validate(key)
    if wanted:
        key_permission(key, possessed, wanted)
    key.usage += 1
    return key, possessed


@notrace
def valid_perm(perm: int) -> None:
    """Errors: EINVAL for bits that do not exist."""
    if perm & ~KEY_PERM_ALL:
        raise KernelError(EINVAL)
