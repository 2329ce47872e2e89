"""/proc/keys: what the reader may see of the keys; /proc/key-users: who has how many.

Linux: security/keys/proc.c (5.3). Same: columns, a key needs the view permission. Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_single_data
from glasskernel.fs.seq_file import SeqFile, seq_puts
from glasskernel.kernel.current import current
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.keys.types import Key

_SECOND_NS = 1_000_000_000
_UNITS = ((60, 1, b"s"), (3600, 60, b"m"), (86400, 3600, b"h"), (604800, 86400, b"d"))


@notrace
def _timeout(key: Key, now: int) -> bytes:
    if not key.expiry:
        return b"perm"
    left = key.expiry - now
    if left <= 0:
        return b"expd"
    for limit, unit, letter in _UNITS:
        if left < limit:
            return b"%d%b" % (left // unit, letter)
    return b"%dw" % (left // 604800)


def proc_keys_show(m: SeqFile, v: Any) -> int | None:
    """One line a key, by number."""
    state = current().kernel.keys
    if state is None:
        return None
    from glasskernel.security.keys.key import key_task_permission
    from glasskernel.security.keys.keyring import is_possessed
    from glasskernel.security.keys.types import KEY_VIEW

    now = ktime_get_real() // _SECOND_NS
    for serial in sorted(state.serials):
        key = state.serials[serial]
        if not key_task_permission(key, is_possessed(key), KEY_VIEW):
            continue
        flags = b"".join((b"I" if key.instantiated else b"-", b"R" if key.revoked else b"-", b"D" if key.dead else b"-",
                          b"Q" if key.in_quota else b"-", b"-", b"-", b"i" if key.invalidated else b"-"))
        seq_puts(m, b"%08x %b %5d %4b %08x %5d %5d %-9.9b %b%b\n" % (
            serial, flags, key.usage, _timeout(key, now), key.perm, key.uid, key.gid, key.type.name, key.description,
            key.type.describe(key)))
    return None


def proc_key_users_show(m: SeqFile, v: Any) -> int | None:
    """One line a user."""
    state = current().kernel.keys
    if state is None:
        return None
    for uid in sorted(state.users):
        user = state.users[uid]
        maxkeys, maxbytes = (state.maxkeys, state.maxbytes) if uid else (state.root_maxkeys, state.root_maxbytes)
        seq_puts(m, b"%5d: %5d %d/%d %d/%d %d/%d\n" % (
            uid, user.usage, user.nkeys, user.nikeys, user.qnkeys, maxkeys, user.qnbytes, maxbytes))
    return None


def key_proc_init(kernel: Kernel) -> None:
    """Makes both files."""
    proc_create_single_data(kernel, b"keys", 0, None, proc_keys_show)
    proc_create_single_data(kernel, b"key-users", 0, None, proc_key_users_show)
