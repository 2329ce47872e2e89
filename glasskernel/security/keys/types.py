"""Keys, their types and permissions: data.

Linux: include/linux/key.h, key-type.h, include/uapi/linux/keyctl.h, security/keys/internal.h (5.3).
Owns: KeysState (kernel.keys), every Key.
Invariants: serials[key.serial] is the key until it is collected; usage counts creds, keyrings that link it, user
    accounts and callers in progress; a user's qnkeys and qnbytes are the sums over his keys with in_quota.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.workqueue import WorkStruct

KEY_VIEW, KEY_READ, KEY_WRITE, KEY_SEARCH, KEY_LINK, KEY_SETATTR = 1, 2, 4, 8, 16, 32
KEY_PERM_ALL = 0x3F3F3F3F
KEY_POS, KEY_USR, KEY_GRP = 24, 16, 8                         # where in the mask each class of users has its bits
KEY_MAX_DESC_SIZE, MAX_DATA = 4096, 32767
KEYRING_SEARCH_MAX_DEPTH = 6
(KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING, KEY_SPEC_SESSION_KEYRING, KEY_SPEC_USER_KEYRING,
 KEY_SPEC_USER_SESSION_KEYRING, KEY_SPEC_GROUP_KEYRING, KEY_SPEC_REQKEY_AUTH_KEY,
 KEY_SPEC_REQUESTOR_KEYRING) = range(-1, -9, -1)
(KEY_REQKEY_DEFL_NO_CHANGE, KEY_REQKEY_DEFL_DEFAULT, KEY_REQKEY_DEFL_THREAD_KEYRING,
 KEY_REQKEY_DEFL_PROCESS_KEYRING, KEY_REQKEY_DEFL_SESSION_KEYRING, KEY_REQKEY_DEFL_USER_KEYRING,
 KEY_REQKEY_DEFL_USER_SESSION_KEYRING) = range(-1, 6)


@slotted(frozen=True)
class KeyType:
    """struct key_type. preparse(data): checks a payload. describe(key): the text behind the description.

    readable, updatable: there is ->read(), ->update().
    """

    name: bytes
    preparse: Callable[[bytes], None]
    describe: Callable[[Key], bytes]
    readable: bool = False
    updatable: bool = False
    keyring: bool = False


@slotted
class Key:
    """struct key. payload: bytes of a key; links: a keyring's keys by (type, description), in order."""

    kernel: Kernel
    serial: int
    type: KeyType
    description: bytes
    uid: int
    gid: int
    perm: int
    usage: int = 1
    payload: bytes = b""
    links: dict[tuple[bytes, bytes], Key] = field(default_factory=dict)
    expiry: int = 0                                # seconds since 1970; 0: never
    in_quota: bool = True
    quotalen: int = 0
    # flags
    instantiated: bool = False
    revoked: bool = False
    dead: bool = False
    invalidated: bool = False
    security: Any = None                           # the security module's

    def __repr__(self) -> str:
        return f"<key {self.serial:08x} {self.type.name.decode()} {self.description!r}>"


@slotted
class KeyUser:
    """struct key_user: what one user has."""

    uid: int
    usage: int = 0
    nkeys: int = 0
    nikeys: int = 0
    qnkeys: int = 0
    qnbytes: int = 0
    uid_keyring: Key | None = None
    session_keyring: Key | None = None


@slotted
class KeysState:
    """kernel.keys. put: key_put(). The quotas are sysctls: those of root are apart."""

    put: Callable[[Key], None]
    gc_work: WorkStruct
    serials: dict[int, Key] = field(default_factory=dict)
    users: dict[int, KeyUser] = field(default_factory=dict)
    maxkeys: int = 200
    maxbytes: int = 20_000
    root_maxkeys: int = 1_000_000
    root_maxbytes: int = 25_000_000
