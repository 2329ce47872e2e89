"""Mount options: reading them, and showing those that differ from the super block's defaults.

Linux: parse_options() and _ext4_show_options() of fs/ext4/super.c (5.3). Same: names, messages, what a remount may
    change, order in /proc/mounts.
Gaps: quota files, encryption, dax, journal on another device, stripe.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.errors import KERN_ERR, ext4_msg
from glasskernel.fs.ext4.types import (
    EXT4_DEF_INODE_READAHEAD_BLKS,
    EXT4_DEF_LI_WAIT_MULT,
    EXT4_DEF_MAX_BATCH_TIME,
    EXT4_DEF_MIN_BATCH_TIME,
    EXT4_ERRORS_CONTINUE,
    EXT4_ERRORS_PANIC,
    EXT4_ERRORS_RO,
    EXT4_MOUNT2_EXPLICIT_DELALLOC,
    EXT4_MOUNT2_EXPLICIT_JOURNAL_CHECKSUM,
    EXT4_MOUNT_BARRIER,
    EXT4_MOUNT_BLOCK_VALIDITY,
    EXT4_MOUNT_DATA_ERR_ABORT,
    EXT4_MOUNT_DATA_FLAGS,
    EXT4_MOUNT_DEBUG,
    EXT4_MOUNT_DELALLOC,
    EXT4_MOUNT_DIOREAD_NOLOCK,
    EXT4_MOUNT_DISCARD,
    EXT4_MOUNT_ERRORS_CONT,
    EXT4_MOUNT_ERRORS_MASK,
    EXT4_MOUNT_ERRORS_PANIC,
    EXT4_MOUNT_ERRORS_RO,
    EXT4_MOUNT_GRPID,
    EXT4_MOUNT_INIT_INODE_TABLE,
    EXT4_MOUNT_JOURNAL_ASYNC_COMMIT,
    EXT4_MOUNT_JOURNAL_CHECKSUM,
    EXT4_MOUNT_JOURNAL_DATA,
    EXT4_MOUNT_MINIX_DF,
    EXT4_MOUNT_NO_AUTO_DA_ALLOC,
    EXT4_MOUNT_NO_MBCACHE,
    EXT4_MOUNT_NO_UID32,
    EXT4_MOUNT_NOLOAD,
    EXT4_MOUNT_ORDERED_DATA,
    EXT4_MOUNT_POSIX_ACL,
    EXT4_MOUNT_WRITEBACK_DATA,
    EXT4_MOUNT_XATTR_USER,
    EXT4_SB,
    test_opt,
)
from glasskernel.fs.types import SB_I_VERSION, SB_LAZYTIME, SB_POSIXACL
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, SuperBlock

# name, bits, set or clear: ext4_mount_opts in Linux's order; the first name of a pair of bit and sense is shown
MOUNT_OPTS = (
    (b"minixdf", EXT4_MOUNT_MINIX_DF, True),
    (b"bsddf", EXT4_MOUNT_MINIX_DF, False),
    (b"grpid", EXT4_MOUNT_GRPID, True),
    (b"nogrpid", EXT4_MOUNT_GRPID, False),
    (b"block_validity", EXT4_MOUNT_BLOCK_VALIDITY, True),
    (b"noblock_validity", EXT4_MOUNT_BLOCK_VALIDITY, False),
    (b"dioread_nolock", EXT4_MOUNT_DIOREAD_NOLOCK, True),
    (b"dioread_lock", EXT4_MOUNT_DIOREAD_NOLOCK, False),
    (b"discard", EXT4_MOUNT_DISCARD, True),
    (b"nodiscard", EXT4_MOUNT_DISCARD, False),
    (b"delalloc", EXT4_MOUNT_DELALLOC, True),
    (b"nodelalloc", EXT4_MOUNT_DELALLOC, False),
    (b"nojournal_checksum", EXT4_MOUNT_JOURNAL_CHECKSUM, False),
    (b"journal_checksum", EXT4_MOUNT_JOURNAL_CHECKSUM, True),
    (b"journal_async_commit", EXT4_MOUNT_JOURNAL_ASYNC_COMMIT | EXT4_MOUNT_JOURNAL_CHECKSUM, True),
    (b"noload", EXT4_MOUNT_NOLOAD, True),
    (b"barrier", EXT4_MOUNT_BARRIER, True),
    (b"nobarrier", EXT4_MOUNT_BARRIER, False),
    (b"noauto_da_alloc", EXT4_MOUNT_NO_AUTO_DA_ALLOC, True),
    (b"auto_da_alloc", EXT4_MOUNT_NO_AUTO_DA_ALLOC, False),
    (b"noinit_itable", EXT4_MOUNT_INIT_INODE_TABLE, False),
    (b"user_xattr", EXT4_MOUNT_XATTR_USER, True),
    (b"nouser_xattr", EXT4_MOUNT_XATTR_USER, False),
    (b"acl", EXT4_MOUNT_POSIX_ACL, True),
    (b"noacl", EXT4_MOUNT_POSIX_ACL, False),
    (b"nouid32", EXT4_MOUNT_NO_UID32, True),
    (b"debug", EXT4_MOUNT_DEBUG, True),
    (b"nombcache", EXT4_MOUNT_NO_MBCACHE, True),
)
ALIASES = {b"bsdgroups": b"grpid", b"sysvgroups": b"nogrpid", b"norecovery": b"noload", b"no_mbcache": b"nombcache"}
DATA_MODES = {b"journal": EXT4_MOUNT_JOURNAL_DATA, b"ordered": EXT4_MOUNT_ORDERED_DATA,
              b"writeback": EXT4_MOUNT_WRITEBACK_DATA}
ERRORS = {b"continue": EXT4_MOUNT_ERRORS_CONT, b"remount-ro": EXT4_MOUNT_ERRORS_RO, b"panic": EXT4_MOUNT_ERRORS_PANIC}
IGNORED = (b"orlov", b"oldalloc", b"nocheck", b"check=none", b"bh", b"nobh", b"quota", b"noquota", b"reservation",
           b"noreservation", b"mblk_io_submit", b"nomblk_io_submit")


@notrace
def _number(sb: SuperBlock, option: bytes, value: bytes) -> int:
    try:
        number = int(value, 0)
    except ValueError:
        ext4_msg(sb, KERN_ERR, f'Unrecognized mount option "{option.decode(errors="replace")}" or missing value')
        raise KernelError(EINVAL) from None
    if number < 0:
        raise KernelError(EINVAL)
    return number


def handle_mount_opt(sb: SuperBlock, option: bytes, is_remount: bool) -> None:
    """One option. Raises EINVAL."""
    sbi = EXT4_SB(sb)
    key, has_value, value = option.partition(b"=")
    key = ALIASES.get(key, key)
    if key == b"barrier" and has_value:
        key = b"barrier" if _number(sb, option, value) else b"nobarrier"
    elif key == b"auto_da_alloc" and has_value:
        key = b"auto_da_alloc" if _number(sb, option, value) else b"noauto_da_alloc"
    elif key == b"init_itable":
        sbi.s_mount_opt |= EXT4_MOUNT_INIT_INODE_TABLE
        sbi.s_li_wait_mult = _number(sb, option, value) if has_value else EXT4_DEF_LI_WAIT_MULT
        return
    if key == b"journal_async_commit" and is_remount:
        ext4_msg(sb, KERN_ERR, "can't enable journal_async_commit during remount")
        raise KernelError(EINVAL)
    for name, bits, setting in MOUNT_OPTS:
        if key == name:
            if setting:
                sbi.s_mount_opt |= bits
            else:
                sbi.s_mount_opt &= ~bits
            if key == b"delalloc":
                sbi.s_mount_opt2 |= EXT4_MOUNT2_EXPLICIT_DELALLOC
            if key == b"journal_checksum":
                sbi.s_mount_opt2 |= EXT4_MOUNT2_EXPLICIT_JOURNAL_CHECKSUM
            return
    if key == b"data" and value in DATA_MODES:
        mode = DATA_MODES[value]
        if is_remount:
            if sbi.s_journal is None:
                ext4_msg(sb, KERN_ERR, "Remounting file system with no journal so ignoring journalled data option")
                return
            if sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS != mode:
                ext4_msg(sb, KERN_ERR, "Cannot change data mode on remount")
                raise KernelError(EINVAL)
        sbi.s_mount_opt = sbi.s_mount_opt & ~EXT4_MOUNT_DATA_FLAGS | mode
    elif key == b"errors" and value in ERRORS:
        sbi.s_mount_opt = sbi.s_mount_opt & ~EXT4_MOUNT_ERRORS_MASK | ERRORS[value]
    elif key == b"data_err" and value in (b"abort", b"ignore"):
        sbi.s_mount_opt = (sbi.s_mount_opt | EXT4_MOUNT_DATA_ERR_ABORT if value == b"abort"
                           else sbi.s_mount_opt & ~EXT4_MOUNT_DATA_ERR_ABORT)
    elif key == b"resuid":
        sbi.s_resuid = _number(sb, option, value)
    elif key == b"resgid":
        sbi.s_resgid = _number(sb, option, value)
    elif key == b"commit":
        sbi.s_commit_interval = _number(sb, option, value) or 5
    elif key == b"min_batch_time":
        sbi.s_min_batch_time = _number(sb, option, value)
    elif key == b"max_batch_time":
        sbi.s_max_batch_time = _number(sb, option, value)
    elif key == b"inode_readahead_blks":
        number = _number(sb, option, value)
        if number and (number > 1 << 30 or number & number - 1):
            ext4_msg(sb, KERN_ERR, "EXT4-fs: inode_readahead_blks must be 0 or a power of 2 smaller than 2^31")
            raise KernelError(EINVAL)
        sbi.s_inode_readahead_blks = number
    elif key == b"max_dir_size_kb":
        sbi.s_max_dir_size_kb = _number(sb, option, value)
    elif key == b"i_version":
        sb.s_flags |= SB_I_VERSION
    elif key in (b"lazytime", b"nolazytime"):
        sb.s_flags = sb.s_flags | SB_LAZYTIME if key == b"lazytime" else sb.s_flags & ~SB_LAZYTIME
    elif key == b"journal_ioprio":
        _number(sb, option, value)
    elif key == b"sb":
        if is_remount:
            return
    elif option not in IGNORED:
        ext4_msg(sb, KERN_ERR, f'Unrecognized mount option "{option.decode(errors="replace")}" or missing value')
        raise KernelError(EINVAL)


def parse_options(data: bytes, sb: SuperBlock, is_remount: bool) -> None:
    """The options of mount(2). Raises EINVAL."""
    for option in data.split(b","):
        if option:
            handle_mount_opt(sb, option, is_remount)
    sb.s_flags = sb.s_flags & ~SB_POSIXACL
    if test_opt(EXT4_SB(sb), EXT4_MOUNT_POSIX_ACL):
        sb.s_flags |= SB_POSIXACL


def _ext4_show_options(sb: SuperBlock, nodefs: bool) -> bytes:
    sbi = EXT4_SB(sb)
    es = sbi.s_es
    separator = b"\n" if nodefs else b","
    default = 0 if nodefs else sbi.s_def_mount_opt
    shown = []
    if sbi.s_sb_block != 1:
        shown.append(b"sb=%d" % sbi.s_sb_block)
    for name, bits, setting in MOUNT_OPTS:
        if not nodefs and not bits & (sbi.s_mount_opt ^ default):
            continue
        if (sbi.s_mount_opt & bits == bits) if setting else not sbi.s_mount_opt & bits:
            shown.append(name)
    if nodefs or sbi.s_resuid or es.s_def_resuid:
        shown.append(b"resuid=%d" % sbi.s_resuid)
    if nodefs or sbi.s_resgid or es.s_def_resgid:
        shown.append(b"resgid=%d" % sbi.s_resgid)
    def_errors = -1 if nodefs else es.s_errors
    for bit, number, name in ((EXT4_MOUNT_ERRORS_RO, EXT4_ERRORS_RO, b"remount-ro"),
                              (EXT4_MOUNT_ERRORS_CONT, EXT4_ERRORS_CONTINUE, b"continue"),
                              (EXT4_MOUNT_ERRORS_PANIC, EXT4_ERRORS_PANIC, b"panic")):
        if test_opt(sbi, bit) and def_errors != number:
            shown.append(b"errors=" + name)
    if nodefs or sbi.s_commit_interval != 5:
        shown.append(b"commit=%d" % sbi.s_commit_interval)
    if nodefs or sbi.s_min_batch_time != EXT4_DEF_MIN_BATCH_TIME:
        shown.append(b"min_batch_time=%d" % sbi.s_min_batch_time)
    if nodefs or sbi.s_max_batch_time != EXT4_DEF_MAX_BATCH_TIME:
        shown.append(b"max_batch_time=%d" % sbi.s_max_batch_time)
    if sb.s_flags & SB_I_VERSION:
        shown.append(b"i_version")
    if nodefs or sbi.s_stripe:
        shown.append(b"stripe=%d" % sbi.s_stripe)
    if nodefs or EXT4_MOUNT_DATA_FLAGS & (sbi.s_mount_opt ^ default):
        for name, bits in DATA_MODES.items():
            if sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS == bits:
                shown.append(b"data=" + name)
    if nodefs or sbi.s_inode_readahead_blks != EXT4_DEF_INODE_READAHEAD_BLKS:
        shown.append(b"inode_readahead_blks=%d" % sbi.s_inode_readahead_blks)
    if test_opt(sbi, EXT4_MOUNT_INIT_INODE_TABLE) and (nodefs or sbi.s_li_wait_mult != EXT4_DEF_LI_WAIT_MULT):
        shown.append(b"init_itable=%d" % sbi.s_li_wait_mult)
    if nodefs or sbi.s_max_dir_size_kb:
        shown.append(b"max_dir_size_kb=%d" % sbi.s_max_dir_size_kb)
    if test_opt(sbi, EXT4_MOUNT_DATA_ERR_ABORT):
        shown.append(b"data_err=abort")
    if nodefs:
        return b"".join(name + separator for name in shown)
    return b"".join(separator + name for name in shown)


def ext4_show_options(root: Dentry) -> bytes:
    """->show_options()."""
    return _ext4_show_options(root.d_sb, False)
