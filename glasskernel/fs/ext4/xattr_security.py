"""Attributes that a security module gives to a new file. Imported with a module only.

Linux: fs/ext4/xattr_security.c (5.3): ext4_init_security(). Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.xattr import EXT4_XATTR_INDEX_SECURITY, ext4_xattr_set_handle
from glasskernel.fs.xattr import XATTR_CREATE
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.ext4.ext4_jbd2 import Handle
    from glasskernel.fs.types import Inode


@may_sleep
def ext4_init_security(handle: Handle, inode: Inode, dir: Inode, qstr: bytes | None) -> None:
    """Stores the label of a file that is being made. Locks: none; in the handle that makes it. Raises ENOSPC, EIO."""
    for name, value in inode.i_sb.kernel.lsm.security_inode_init_security(inode, dir, qstr):
        ext4_xattr_set_handle(handle, inode, EXT4_XATTR_INDEX_SECURITY, name, value, XATTR_CREATE)
