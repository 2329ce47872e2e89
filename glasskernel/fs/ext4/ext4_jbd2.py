"""Between ext4 and its journal.

Linux: fs/ext4/ext4_jbd2.c, ext4_jbd2.h (5.3). Same: what is journalled in which data mode, credits.
Differs: without a journal a handle is a NoJournalHandle (Linux: a small number in a pointer).
Invariant: every buffer of metadata goes through get_write_access or get_create_access, then handle_dirty_metadata.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from glasskernel.fs.buffer import bforget, mark_buffer_dirty_inode
from glasskernel.fs.buffer_head import set_buffer_meta, set_buffer_prio, set_buffer_uptodate
from glasskernel.fs.buffer_io import mark_buffer_dirty, sync_dirty_buffer
from glasskernel.fs.ext4.errors import __ext4_abort, __ext4_error_inode, __ext4_std_error, ext4_superblock_csum_set
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_I,
    EXT4_JOURNAL_DATA_FL,
    EXT4_MOUNT_DATA_FLAGS,
    EXT4_MOUNT_DELALLOC,
    EXT4_MOUNT_DIOREAD_NOLOCK,
    EXT4_MOUNT_JOURNAL_DATA,
    EXT4_MOUNT_ORDERED_DATA,
    EXT4_MOUNT_WRITEBACK_DATA,
    EXT4_SB,
    INCOMPAT_EXTENTS,
    ext4_forced_shutdown,
    has_incompat,
)
from glasskernel.fs.jbd2.journal import jbd2_journal_init_jbd_inode
from glasskernel.fs.jbd2.log import jbd2_journal_force_commit
from glasskernel.fs.jbd2.revoke import jbd2_journal_revoke
from glasskernel.fs.jbd2.transaction import (
    jbd2__journal_restart,
    jbd2__journal_start,
    jbd2_journal_extend,
    jbd2_journal_start_reserved,
    jbd2_journal_stop,
)
from glasskernel.fs.jbd2.transaction_access import (
    jbd2_journal_dirty_metadata,
    jbd2_journal_forget,
    jbd2_journal_get_create_access,
    jbd2_journal_get_write_access,
)
from glasskernel.fs.jbd2.transaction_page import jbd2_journal_inode_ranged_wait, jbd2_journal_inode_ranged_write
from glasskernel.fs.jbd2.types import JbdInode
from glasskernel.fs.types import S_IFDIR, S_IFMT, S_IFREG, S_SYNC, SB_RDONLY, SB_SYNCHRONOUS
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, EROFS, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode, SuperBlock

GFP_NOFS = 0xC40
EXT4_XATTR_TRANS_BLOCKS, EXT4_MAX_TRANS_DATA, EXT4_RESERVE_TRANS_BLOCKS, EXT4_INDEX_EXTRA_TRANS_BLOCKS = 6, 64, 12, 12
EXT4_WRITEBACK_DATA_MODE, EXT4_ORDERED_DATA_MODE, EXT4_JOURNAL_DATA_MODE = 4, 2, 1


@slotted
class NoJournalHandle:
    """What stands for a handle when there is no journal. h_ref: how deep calls nest."""

    h_ref: int = 1
    h_sync: int = 0
    h_err: int = 0
    h_buffer_credits: int = 1 << 30
    h_transaction: Any = None


Handle = Any                           # fs.jbd2.types.Handle or NoJournalHandle


@notrace
def ext4_handle_valid(handle: Handle) -> bool:
    return handle.__class__ is not NoJournalHandle


# ---- credits -----------------------------------------------------------------------------------------------
@notrace
def EXT4_SINGLEDATA_TRANS_BLOCKS(sb: SuperBlock) -> int:
    return 27 if has_incompat(EXT4_SB(sb), INCOMPAT_EXTENTS) else 8


@notrace
def EXT4_DATA_TRANS_BLOCKS(sb: SuperBlock) -> int:
    return EXT4_SINGLEDATA_TRANS_BLOCKS(sb) + EXT4_XATTR_TRANS_BLOCKS - 2


# ---- handles -----------------------------------------------------------------------------------------------
@notrace
def ext4_get_nojournal() -> NoJournalHandle:
    task = current()
    handle: Any = task.journal_info
    if handle is None:
        handle = task.journal_info = NoJournalHandle()
    else:
        handle.h_ref += 1
    return handle  # type: ignore[no-any-return]


@notrace
def ext4_put_nojournal(handle: NoJournalHandle) -> None:
    handle.h_ref -= 1
    if not handle.h_ref:
        current().journal_info = None


@may_sleep
def ext4_journal_check_start(sb: SuperBlock) -> None:
    """May a change begin? Raises EIO (shut down), EROFS (read-only, or the journal was aborted)."""
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    if sb.s_flags & SB_RDONLY:
        raise KernelError(EROFS)
    journal = sbi.s_journal
    if journal is not None and journal.j_flags & 2:              # JBD2_ABORT
        __ext4_abort(sb, "ext4_journal_check_start", 61, "Detected aborted journal")
        raise KernelError(EROFS)


@may_sleep
def __ext4_journal_start_sb(sb: SuperBlock, type: int, blocks: int, rsv_blocks: int = 0) -> Handle:
    """Begins a change of at most `blocks` buffers. Raises EROFS, EIO, ENOSPC (larger than the journal)."""
    probe = sb.kernel.tp.ext4_journal_start
    if probe is not None:
        probe(sb, blocks, rsv_blocks, 0)
    ext4_journal_check_start(sb)
    journal = EXT4_SB(sb).s_journal
    if journal is None:
        return ext4_get_nojournal()
    return jbd2__journal_start(journal, blocks, rsv_blocks, GFP_NOFS, type, 0)


@notrace
@may_sleep
def ext4_journal_start_sb(sb: SuperBlock, type: int, blocks: int) -> Handle:
    return __ext4_journal_start_sb(sb, type, blocks)


@notrace
@may_sleep
def ext4_journal_start(inode: Inode, type: int, blocks: int, rsv_blocks: int = 0) -> Handle:
    return __ext4_journal_start_sb(inode.i_sb, type, blocks, rsv_blocks)


@may_sleep
def __ext4_journal_stop(handle: Handle) -> None:
    """Ends a change. Raises EIO if the journal was aborted meanwhile."""
    if not ext4_handle_valid(handle):
        ext4_put_nojournal(handle)
        return
    transaction = handle.h_transaction
    err = handle.h_err
    if transaction is None:
        jbd2_journal_stop(handle)
        if err:
            raise KernelError(abs(err))
        return
    sb = transaction.t_journal.j_private
    try:
        jbd2_journal_stop(handle)
    except KernelError as e:
        err = err or e.errno
    if err:
        __ext4_std_error(sb, abs(err), "__ext4_journal_stop", 0)
        raise KernelError(abs(err))


ext4_journal_stop = __ext4_journal_stop


@notrace
@may_sleep
def ext4_journal_stop_quiet(handle: Handle) -> None:
    """ext4_journal_stop() where another error is on its way already."""
    with contextlib.suppress(KernelError):
        __ext4_journal_stop(handle)


@may_sleep
def __ext4_journal_start_reserved(handle: Handle, type: int) -> Handle:
    """Turns credits that were reserved by rsv_blocks into a running handle."""
    if not ext4_handle_valid(handle):
        return ext4_get_nojournal()
    sb = handle.h_journal.j_private
    probe = sb.kernel.tp.ext4_journal_start_reserved
    if probe is not None:
        probe(sb, handle.h_buffer_credits, 0)
    ext4_journal_check_start(sb)
    jbd2_journal_start_reserved(handle, type, 0)
    return handle


@notrace
@may_sleep
def ext4_journal_extend(handle: Handle, nblocks: int) -> bool:
    """True if the handle has nblocks credits more."""
    if not ext4_handle_valid(handle):
        return True
    return not jbd2_journal_extend(handle, nblocks)


@notrace
@may_sleep
def ext4_journal_restart(handle: Handle, nblocks: int) -> None:
    if ext4_handle_valid(handle):
        jbd2__journal_restart(handle, nblocks, GFP_NOFS)


@notrace
def ext4_journal_current_handle() -> Handle | None:
    return current().journal_info


@notrace
def ext4_handle_sync(handle: Handle) -> None:
    if handle.__class__ is not NoJournalHandle:
        handle.h_sync = 1


@notrace
@may_sleep
def ext4_force_commit(sb: SuperBlock) -> None:
    """Commits what runs, and waits."""
    if sb.s_flags & SB_RDONLY or EXT4_SB(sb).s_journal is None:
        return
    jbd2_journal_force_commit(EXT4_SB(sb).s_journal)


# ---- buffers -----------------------------------------------------------------------------------------------
@may_sleep
def __ext4_journal_get_write_access(handle: Handle, bh: BufferHead) -> None:
    """A buffer of metadata is about to be changed. Raises EROFS, EIO."""
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_get_write_access(handle, bh)


ext4_journal_get_write_access = __ext4_journal_get_write_access


@may_sleep
def __ext4_journal_get_create_access(handle: Handle, bh: BufferHead) -> None:
    """The same for a buffer whose old contents are worth nothing."""
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_get_create_access(handle, bh)


ext4_journal_get_create_access = __ext4_journal_get_create_access


@may_sleep
def __ext4_forget(handle: Handle, is_metadata: bool, inode: Inode, bh: BufferHead | None, blocknr: int) -> None:
    """A block is being freed: it leaves its transaction; metadata is revoked, so that recovery does not replay it."""
    probe = inode.i_sb.kernel.tp.ext4_forget
    if probe is not None:
        probe(inode, is_metadata, blocknr)
    if handle.__class__ is NoJournalHandle:
        bforget(bh)
        return
    if (EXT4_SB(inode.i_sb).s_mount_opt & EXT4_MOUNT_DATA_FLAGS == EXT4_MOUNT_JOURNAL_DATA
            or (not is_metadata and not ext4_should_journal_data(inode))):
        if bh is not None:
            jbd2_journal_forget(handle, bh)
        return
    jbd2_journal_revoke(handle, blocknr, bh)


ext4_forget = __ext4_forget


@may_sleep
def __ext4_handle_dirty_metadata(handle: Handle, inode: Inode | None, bh: BufferHead) -> None:
    """A buffer of metadata was changed. Raises EIO, ENOSPC (no credits)."""
    set_buffer_meta(bh)
    set_buffer_prio(bh)
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_dirty_metadata(handle, bh)
        return
    set_buffer_uptodate(bh)
    if inode is not None:
        mark_buffer_dirty_inode(bh, inode)
        if inode.i_flags & S_SYNC or inode.i_sb.s_flags & SB_SYNCHRONOUS:
            try:
                sync_dirty_buffer(bh)
            except KernelError:
                __ext4_error_inode(inode, "__ext4_handle_dirty_metadata", 0, bh.b_blocknr,
                                   "IO error syncing itable block")
                raise
    else:
        mark_buffer_dirty(bh)


ext4_handle_dirty_metadata = __ext4_handle_dirty_metadata


@may_sleep
def __ext4_handle_dirty_super(handle: Handle, sb: SuperBlock) -> None:
    """The super block was changed inside a transaction."""
    bh = EXT4_SB(sb).s_sbh
    ext4_superblock_csum_set(sb)
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_dirty_metadata(handle, bh)
    else:
        mark_buffer_dirty(bh)


ext4_handle_dirty_super = __ext4_handle_dirty_super


@notrace
def ext4_update_inode_fsync_trans(handle: Handle, inode: Inode, datasync: int) -> None:
    """Notes which transaction fsync() will have to wait for."""
    if handle.__class__ is not NoJournalHandle and handle.h_transaction is not None:
        ei = EXT4_I(inode)
        tid = handle.h_transaction.t_tid
        ei.i_sync_tid = tid
        if datasync:
            ei.i_datasync_tid = tid


@notrace
def ext4_jbd2_inode_add_write(handle: Handle, inode: Inode, start: int, length: int) -> None:
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_inode_ranged_write(handle, EXT4_I(inode).jinode, start, length)


@notrace
def ext4_jbd2_inode_add_wait(handle: Handle, inode: Inode, start: int, length: int) -> None:
    if handle.__class__ is not NoJournalHandle:
        jbd2_journal_inode_ranged_wait(handle, EXT4_I(inode).jinode, start, length)


# ---- the mode of a file's data --------------------------------------------------------------------------------
@notrace
def ext4_inode_journal_mode(inode: Inode) -> int:
    sbi = EXT4_SB(inode.i_sb)
    if sbi.s_journal is None:
        return EXT4_WRITEBACK_DATA_MODE
    mode = sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS
    ei = EXT4_I(inode)
    if (inode.i_mode & S_IFMT != S_IFREG or mode == EXT4_MOUNT_JOURNAL_DATA
            or (ei.i_flags & EXT4_JOURNAL_DATA_FL and not sbi.s_mount_opt & EXT4_MOUNT_DELALLOC)):
        return EXT4_JOURNAL_DATA_MODE
    if mode == EXT4_MOUNT_ORDERED_DATA:
        return EXT4_ORDERED_DATA_MODE
    if mode == EXT4_MOUNT_WRITEBACK_DATA:
        return EXT4_WRITEBACK_DATA_MODE
    raise AssertionError("ext4: no data mode")


@notrace
def ext4_should_journal_data(inode: Inode) -> bool:
    return ext4_inode_journal_mode(inode) == EXT4_JOURNAL_DATA_MODE


@notrace
def ext4_should_order_data(inode: Inode) -> bool:
    return ext4_inode_journal_mode(inode) == EXT4_ORDERED_DATA_MODE


@notrace
def ext4_should_dioread_nolock(inode: Inode) -> bool:
    """Are blocks allocated unwritten, and converted when the data is there? Then no reader can see old data."""
    return bool(EXT4_SB(inode.i_sb).s_mount_opt & EXT4_MOUNT_DIOREAD_NOLOCK and inode.i_mode & S_IFMT == S_IFREG
                and EXT4_I(inode).i_flags & EXT4_EXTENTS_FL and not ext4_should_journal_data(inode))


@notrace
def ext4_is_dir(inode: Inode) -> bool:
    return inode.i_mode & S_IFMT == S_IFDIR


def ext4_inode_attach_jinode(inode: Inode) -> None:
    """What the journal needs to know of a file whose data it orders."""
    ei = EXT4_I(inode)
    if ei.jinode is None and EXT4_SB(inode.i_sb).s_journal is not None:
        ei.jinode = JbdInode(inode)
        jbd2_journal_init_jbd_inode(ei.jinode, inode)
