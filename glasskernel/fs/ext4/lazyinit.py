"""Zeroing inode tables after mkfs did not.

Linux: ext4_lazyinit_thread() and its friends in fs/ext4/super.c, ext4_init_inode_table() in ialloc.c (5.3). Same: one
    group at a time, pauses of init_itable times what the group took, EXT4_BG_INODE_ZEROED.
Differs: each file system has a thread of its own; Linux has one for all.
Owns: sbi.s_li_request.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.buffer import sb_issue_zeroout
from glasskernel.fs.ext4.balloc import (
    ext4_get_group_desc,
    ext4_group_desc_csum_set,
    ext4_has_group_desc_csum,
    ext4_inode_table,
    ext4_itable_unused_count,
)
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error
from glasskernel.fs.ext4.ext4_jbd2 import (
    ext4_handle_dirty_metadata,
    ext4_journal_get_write_access,
    ext4_journal_start_sb,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.types import (
    EXT4_BG_INODE_UNINIT,
    EXT4_BG_INODE_ZEROED,
    EXT4_HT_MISC,
    EXT4_MOUNT_INIT_INODE_TABLE,
    EXT4_SB,
    test_opt,
)
from glasskernel.fs.types import SB_RDONLY
from glasskernel.kernel.kthread import kthread_run, kthread_should_stop, kthread_stop
from glasskernel.kernel.sched.core import schedule_timeout_interruptible
from glasskernel.kernel.time.timer import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import SuperBlock

EXT4_DEF_LI_MAX_START_DELAY = 5        # seconds


@slotted
class Ext4LiRequest:
    """struct ext4_li_request. lr_timeout, lr_next_sched in jiffies."""

    lr_super: SuperBlock
    lr_next_group: int
    lr_next_sched: int = 0
    lr_timeout: int = 0
    thread: Any = None


@may_sleep
def ext4_init_inode_table(sb: SuperBlock, group: int, barrier: bool) -> None:
    """Zeros what no inode has used of a group's table. Raises EIO, EROFS, EFSCORRUPTED."""
    sbi = EXT4_SB(sb)
    if sb.s_flags & SB_RDONLY:
        return
    gdp, bh = ext4_get_group_desc(sb, group)
    if gdp.bg_flags & EXT4_BG_INODE_ZEROED:
        return
    handle = ext4_journal_start_sb(sb, EXT4_HT_MISC, 1)
    try:
        used_blks = 0
        if not gdp.bg_flags & EXT4_BG_INODE_UNINIT:
            used = sbi.s_inodes_per_group - ext4_itable_unused_count(sb, gdp)
            used_blks = -(-used // sbi.s_inodes_per_block)
            if used_blks > sbi.s_itb_per_group or (group == 0 and used < sbi.s_first_ino):
                ext4_error(sb, f"Something is wrong with group {group}: used itable blocks: {used_blks}; "
                           f"itable unused count: {ext4_itable_unused_count(sb, gdp)}")
                raise KernelError(EFSCORRUPTED)
        ext4_journal_get_write_access(handle, bh)
        if used_blks < sbi.s_itb_per_group:
            sb_issue_zeroout(sb, ext4_inode_table(sb, gdp) + used_blks, sbi.s_itb_per_group - used_blks)
        gdp.bg_flags |= EXT4_BG_INODE_ZEROED
        ext4_group_desc_csum_set(sb, group, gdp)
        ext4_handle_dirty_metadata(handle, None, bh)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def ext4_run_li_request(elr: Ext4LiRequest) -> bool:
    """The next group that needs it. True: there is none left."""
    sb = elr.lr_super
    for group in range(elr.lr_next_group, EXT4_SB(sb).s_groups_count):
        gdp, _ = ext4_get_group_desc(sb, group)
        if not gdp.bg_flags & EXT4_BG_INODE_ZEROED:
            started = jiffies()
            ext4_init_inode_table(sb, group, not elr.lr_timeout)
            if not elr.lr_timeout:
                elr.lr_timeout = max(jiffies() - started, 1) * EXT4_SB(sb).s_li_wait_mult
            elr.lr_next_sched = jiffies() + elr.lr_timeout
            elr.lr_next_group = group + 1
            return False
    return True


@may_sleep
def ext4_lazyinit_thread(arg: Ext4LiRequest) -> int:
    """Context: kthread."""
    while not kthread_should_stop():
        now = jiffies()
        if now < arg.lr_next_sched:
            schedule_timeout_interruptible(arg.lr_next_sched - now)
            continue
        try:
            if ext4_run_li_request(arg):
                break
        except KernelError:
            break
    while not kthread_should_stop():                 # whoever unmounts waits for us
        schedule_timeout_interruptible(1 << 40)
    return 0


@notrace
def ext4_has_uninit_itable(sb: SuperBlock) -> int:
    """The first group whose table is not zeroed, or the number of groups."""
    count = EXT4_SB(sb).s_groups_count
    if not ext4_has_group_desc_csum(sb):
        return count
    return next((group for group in range(count)
                 if not ext4_get_group_desc(sb, group)[0].bg_flags & EXT4_BG_INODE_ZEROED), count)


@may_sleep
def ext4_register_li_request(sb: SuperBlock, first_not_zeroed: int) -> None:
    """Starts the thread if there is something to do."""
    sbi = EXT4_SB(sb)
    if sbi.s_li_request is not None:
        return
    first = max(first_not_zeroed, ext4_has_uninit_itable(sb))
    if first == sbi.s_groups_count or sb.s_flags & SB_RDONLY or not test_opt(sbi, EXT4_MOUNT_INIT_INODE_TABLE):
        return
    elr = sbi.s_li_request = Ext4LiRequest(sb, first)
    delay = int.from_bytes(sb.kernel.machine.random_bytes(4), "little") % (EXT4_DEF_LI_MAX_START_DELAY * HZ)
    elr.lr_next_sched = jiffies() + delay
    elr.thread = kthread_run(ext4_lazyinit_thread, elr, "ext4lazyinit")


@may_sleep
def ext4_unregister_li_request(sb: SuperBlock) -> None:
    """Stops it. Context: umount, remount."""
    sbi = EXT4_SB(sb)
    elr = sbi.s_li_request
    if elr is not None:
        sbi.s_li_request = None
        kthread_stop(elr.thread)
