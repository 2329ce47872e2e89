"""Buffer heads: one block of a device in a page of RAM, and the bits of its state.

Linux: include/linux/buffer_head.h, include/linux/jbd2.h (state bits) (5.3). fs/buffer.py works on them.
Differs: a page is its frame number; bits are masks, not numbers; bit operations need no atomic ones, since nothing
    interrupts Python between two statements of the kernel.
Owns: BufferHead. Invariants: b_this_page links the buffers of a page in a ring, in the order of their offsets;
    kernel.mem.private[b_pfn] is the first of them while the page has PG_private.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace

# enum bh_state_bits
BH_Uptodate = 1 << 0            # the block in RAM is as new as the device's, or newer
BH_Dirty = 1 << 1               # newer than the device's
BH_Lock = 1 << 2                # I/O under way, or somebody keeps it away
BH_Req = 1 << 3                 # was submitted for I/O once
BH_Mapped = 1 << 4              # b_blocknr and b_bdev are valid
BH_New = 1 << 5                 # just allocated: nothing on the device is worth reading
BH_Async_Read = 1 << 6          # end_buffer_async_read() is under way
BH_Async_Write = 1 << 7         # end_buffer_async_write() is under way
BH_Delay = 1 << 8               # delayed allocation: it has no block yet
BH_Boundary = 1 << 9            # the next block lies elsewhere
BH_Write_EIO = 1 << 10          # a write failed
BH_Unwritten = 1 << 11          # allocated, never written: reads as zeros
BH_Quiet = 1 << 12              # no message when I/O fails
BH_Meta = 1 << 13               # metadata
BH_Prio = 1 << 14               # submit with REQ_PRIO
BH_Defer_Completion = 1 << 15   # end direct I/O in a workqueue
BH_PrivateStart = 1 << 16       # a file system's own bits begin here
# jbd2's
BH_JBD = 1 << 16                # has a journal_head
BH_JWrite = 1 << 17             # a buffer of the journal being written
BH_Freed = 1 << 18              # truncated while it was in a transaction
BH_Revoked = 1 << 19            # in the revoke table
BH_RevokeValid = 1 << 20        # BH_Revoked is known
BH_JBDDirty = 1 << 21           # dirty, but the journal decides when it is written
BH_State = 1 << 22              # lock of journal_head state
BH_JournalHead = 1 << 23        # lock of bh->b_private
BH_Shadow = 1 << 24             # being written to the journal
BH_Verified = 1 << 25           # its checksum was checked
BH_JBDPrivateStart = 1 << 26    # ext4's own bits begin here
BH_BITMAP_UPTODATE = 1 << 26    # ext4: this is the bitmap, not just what the device has there (BLOCK_UNINIT)


@slotted
class BufferHead:
    """struct buffer_head. b_blocknr in blocks of b_size bytes; b_count: users; b_data: the bytes, in RAM."""

    kernel: Kernel
    b_state: int = 0                     # BH_*
    b_this_page: BufferHead = None  # type: ignore[assignment]      # the next buffer of this page, in a ring
    b_pfn: int = 0                       # 0: on no page
    b_offset: int = 0                    # of the block in its page
    b_size: int = 0
    b_blocknr: int = 0
    b_bdev: BlockDevice | None = None
    b_end_io: Callable[[BufferHead, bool], None] | None = None      # (bh, uptodate): the I/O is done. Context: any
    b_private: Any = None                # for b_end_io; journal_head of jbd2 while BH_JBD
    b_assoc_map: AddressSpace | None = None          # the file whose private_list has it
    b_count: int = 0

    @property
    def b_data(self) -> memoryview:
        """The bytes of the block: writes go to RAM."""
        start = (self.b_pfn << 12) + self.b_offset
        return self.kernel.mem.ram[start : start + self.b_size]

    def __repr__(self) -> str:
        return f"<buffer_head {self.b_blocknr} {self.b_state:#x} count {self.b_count}>"


# ---- BUFFER_FNS: buffer_X(bh), set_buffer_X(bh), clear_buffer_X(bh), all inline in Linux ------------
@notrace
def buffer_uptodate(bh: BufferHead) -> bool:
    return bool(bh.b_state & BH_Uptodate)


@notrace
def set_buffer_uptodate(bh: BufferHead) -> None:
    bh.b_state |= BH_Uptodate


@notrace
def buffer_new(bh: BufferHead) -> bool:
    return bool(bh.b_state & BH_New)


@notrace
def buffer_write_io_error(bh: BufferHead) -> bool:
    return bool(bh.b_state & BH_Write_EIO)


@notrace
def clear_buffer_write_io_error(bh: BufferHead) -> None:
    bh.b_state &= ~BH_Write_EIO


@notrace
def set_buffer_meta(bh: BufferHead) -> None:
    bh.b_state |= BH_Meta


@notrace
def set_buffer_prio(bh: BufferHead) -> None:
    bh.b_state |= BH_Prio


@notrace
def buffer_verified(bh: BufferHead) -> bool:
    return bool(bh.b_state & BH_Verified)


@notrace
def set_buffer_verified(bh: BufferHead) -> None:
    bh.b_state |= BH_Verified


# ---- TAS_BUFFER_FNS: change the bit, answer what it was --------------------------------------------
@notrace
def test_clear_buffer_dirty(bh: BufferHead) -> bool:
    was = bh.b_state
    bh.b_state = was & ~BH_Dirty
    return bool(was & BH_Dirty)


@notrace
def test_clear_buffer_jbddirty(bh: BufferHead) -> bool:
    was = bh.b_state
    bh.b_state = was & ~BH_JBDDirty
    return bool(was & BH_JBDDirty)


@notrace
def test_clear_buffer_revoked(bh: BufferHead) -> bool:
    was = bh.b_state
    bh.b_state = was & ~BH_Revoked
    return bool(was & BH_Revoked)


@notrace
def test_set_buffer_revokevalid(bh: BufferHead) -> bool:
    was = bh.b_state
    bh.b_state = was | BH_RevokeValid
    return bool(was & BH_RevokeValid)


# ---- references and places ------------------------------------------------------------------------
@notrace
def get_bh(bh: BufferHead) -> None:
    """One more user: the buffer stays."""
    bh.b_count += 1


@notrace
def put_bh(bh: BufferHead) -> None:
    bh.b_count -= 1


@notrace
def map_bh(bh: BufferHead, sb: SuperBlock, block: int) -> None:
    """The buffer stands for this block of the file system from now on."""
    bh.b_state |= BH_Mapped
    bh.b_bdev = sb.s_bdev
    bh.b_blocknr = block
    bh.b_size = sb.s_blocksize


@notrace
def page_has_buffers(kernel: Kernel, pfn: int) -> bool:
    """True if the page has a ring of buffers."""
    return pfn in kernel.mem.private


@notrace
def page_buffers(kernel: Kernel, pfn: int) -> BufferHead:
    """The first buffer of a page that has some. Locks: page."""
    head: BufferHead = kernel.mem.private[pfn]
    return head


@notrace
def buffers_of(head: BufferHead) -> list[BufferHead]:
    """The buffers of a page in order."""
    found = [head]
    bh = head.b_this_page
    while bh is not head:
        found.append(bh)
        bh = bh.b_this_page
    return found
