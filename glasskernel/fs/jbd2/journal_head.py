"""Journal heads: from a buffer to what the journal knows of it, and back.

Linux: the end of fs/jbd2/journal.c (5.3). Same: the journal head has a reference of the buffer, and goes with
    its own last one.
Differs: jbd2_alloc() gives a frame of its own to every block, where Linux has a slab for each block size below a page.
Owns: BH_JBD and b_private of buffers that have it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import BH_JBD, BufferHead, get_bh
from glasskernel.fs.buffer_io import __brelse
from glasskernel.fs.jbd2.types import JournalHead, bh2jh
from glasskernel.kernel.printk import printk
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import alloc_page, put_page

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@may_sleep
def jbd2_alloc(kernel: Kernel, size: int, gfp: int) -> int:
    """A frame for a copy of one block. Raises ENOMEM."""
    assert size <= 4096
    return alloc_page(kernel, gfp)


def jbd2_free(kernel: Kernel, pfn: int) -> None:
    put_page(kernel, pfn)


@notrace
def frame_bytes(kernel: Kernel, pfn: int, size: int) -> memoryview:
    """The bytes of a copy that jbd2_alloc() made room for."""
    return kernel.mem.ram[pfn << 12 : (pfn << 12) + size]


def journal_alloc_journal_head(bh: BufferHead) -> JournalHead:
    return JournalHead(bh)


def jbd2_journal_add_journal_head(bh: BufferHead) -> JournalHead:
    """The journal head of a buffer, made if it has none, with a reference. Context: task, a reference of bh held."""
    if not bh.b_state & BH_JBD:
        assert bh.b_count > 0 or bh.b_pfn in bh.kernel.mem.mapping      # nobody frees it meanwhile
        bh.b_private = journal_alloc_journal_head(bh)
        bh.b_state |= BH_JBD
        get_bh(bh)
    jh = bh2jh(bh)
    jh.b_jcount += 1
    return jh


def jbd2_journal_grab_journal_head(bh: BufferHead) -> JournalHead | None:
    """The journal head of a buffer, if it has one, with a reference."""
    if not bh.b_state & BH_JBD:
        return None
    jh = bh2jh(bh)
    jh.b_jcount += 1
    return jh


def __journal_remove_journal_head(bh: BufferHead) -> None:
    jh = bh2jh(bh)
    kernel = bh.kernel
    assert jh.b_transaction is None and jh.b_next_transaction is None and jh.b_cp_transaction is None
    assert not jh.b_jlist and jh.b_bh is bh
    if jh.b_frozen_data:
        printk(kernel, "__journal_remove_journal_head: freeing b_frozen_data", 4)
        jbd2_free(kernel, jh.b_frozen_data)
    if jh.b_committed_data:
        printk(kernel, "__journal_remove_journal_head: freeing b_committed_data", 4)
        jbd2_free(kernel, jh.b_committed_data)
    bh.b_private = None
    bh.b_state &= ~BH_JBD


def jbd2_journal_put_journal_head(jh: JournalHead) -> None:
    """Drops a reference; the last one also drops the buffer's."""
    bh = jh.b_bh
    assert jh.b_jcount > 0
    jh.b_jcount -= 1
    if not jh.b_jcount:
        __journal_remove_journal_head(bh)
        __brelse(bh)
