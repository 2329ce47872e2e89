"""The doors to key management; what is behind them is imported by the first key.

Linux: security/keys/keyctl.c (5.3).
"""
from __future__ import annotations

from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, s32, size_t, ulong


@syscall(gaps="key types other than user, logon and keyring")
def sys_add_key(_type: UserPtr, _description: UserPtr, _payload: UserPtr, plen: size_t, ringid: s32) -> int:
    """add_key(2). Errors: EINVAL, EFAULT, ENODEV, EPERM, EACCES, EDQUOT, ENOKEY."""
    from glasskernel.security.keys.keyctl import add_key

    return add_key(_type, _description, _payload, plen, ringid)


@syscall(gaps="no upcall to /sbin/request-key: ENOKEY")
def sys_request_key(_type: UserPtr, _description: UserPtr, _callout_info: UserPtr, destringid: s32) -> int:
    """request_key(2). Errors: ENOKEY, EKEYREVOKED, EKEYEXPIRED, EACCES, EFAULT, EINVAL."""
    from glasskernel.security.keys.keyctl import request_key

    return request_key(_type, _description, _callout_info, destringid)


@syscall(gaps="instantiation, persistent keyrings, Diffie-Hellman and public keys")
def sys_keyctl(option: int, arg2: ulong, arg3: ulong, arg4: ulong, arg5: ulong) -> int:
    """keyctl(2). Errors: EOPNOTSUPP, and those of the command."""
    from glasskernel.security.keys.keyctl import keyctl

    return keyctl(option, arg2, arg3, arg4, arg5)
