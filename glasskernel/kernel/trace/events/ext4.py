"""ext4.

Linux: include/trace/events/ext4.h (5.3).
Extents: ext4_extents.py; the allocator: ext4_mballoc.py. Gaps: fsmap, fast commits (not in 5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current
from glasskernel.kernel.trace.events.values import caller_ip
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.mm.types import WritebackControl

@notrace
def inode_of(inode: Inode) -> tuple[int, int]:
    """(device, number)"""
    return inode.i_sb.s_dev, inode.i_ino


@notrace
def _page(pfn: int) -> Values:
    """(device, inode, index) of a page of the page cache."""
    mem = current().kernel.mem
    host = mem.mapping[pfn].host
    return (*(inode_of(host) if host is not None else (0, 0)), mem.index[pfn])


ext4 = trace_system("ext4")


@ext4.event(
    fields="dev_t dev; ino_t ino; uid_t uid; gid_t gid; __u64 blocks; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o uid %u gid %u blocks %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->mode, REC->uid, '
        'REC->gid, REC->blocks'),
)
def ext4_free_inode(inode: Inode) -> Values:
    return (*inode_of(inode), inode.i_uid, inode.i_gid, inode.i_blocks, inode.i_mode)


@ext4.event(
    fields="dev_t dev; ino_t dir; __u16 mode",
    print_fmt=(
        '"dev %d,%d dir %lu mode 0%o", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->dir, REC->mode'),
)
def ext4_request_inode(dir_: Inode, mode: int) -> Values:
    return (*inode_of(dir_), mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; ino_t dir; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu dir %lu mode 0%o", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned long) REC->dir, '
        'REC->mode'),
)
def ext4_allocate_inode(inode: Inode, dir_: Inode, mode: int) -> Values:
    return (*inode_of(inode), dir_.i_ino, mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; int nlink",
    print_fmt=(
        '"dev %d,%d ino %lu nlink %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->nlink'),
)
def ext4_evict_inode(inode: Inode) -> Values:
    return (*inode_of(inode), inode.i_nlink)


@ext4.event(
    fields="dev_t dev; ino_t ino; int drop",
    print_fmt=(
        '"dev %d,%d ino %lu drop %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->drop'),
)
def ext4_drop_inode(inode: Inode, drop: int) -> Values:
    return (*inode_of(inode), drop)


@ext4.event(
    fields="dev_t dev; ino_t ino; unsigned long ip",
    print_fmt=(
        '"dev %d,%d ino %lu caller %pS", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (void *)REC->ip'),
)
def ext4_mark_inode_dirty(inode: Inode, ip: int) -> Values:
    return (*inode_of(inode), ip or caller_ip(inode.i_sb.kernel, 2))


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t new_size",
    print_fmt=(
        '"dev %d,%d ino %lu new_size %lld", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->new_size'),
)
def ext4_begin_ordered_truncate(inode: Inode, new_size: int) -> Values:
    return (*inode_of(inode), new_size)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; loff_t pos; unsigned int len; unsigned int flags",
    print_fmt=(
        '"dev %d,%d ino %lu pos %lld len %u flags %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pos, REC->len, '
        'REC->flags'),
)
def ext4__write_begin(inode: Inode, pos: int, len_: int, flags: int) -> Values:
    return (*inode_of(inode), pos, len_, flags)


ext4_write_begin = ext4__write_begin.define("ext4_write_begin")
ext4_da_write_begin = ext4__write_begin.define("ext4_da_write_begin")


@ext4.event_class(
    fields="dev_t dev; ino_t ino; loff_t pos; unsigned int len; unsigned int copied",
    print_fmt=(
        '"dev %d,%d ino %lu pos %lld len %u copied %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pos, REC->len, '
        'REC->copied'),
)
def ext4__write_end(inode: Inode, pos: int, len_: int, copied: int) -> Values:
    return (*inode_of(inode), pos, len_, copied)


ext4_write_end = ext4__write_end.define("ext4_write_end")
ext4_journalled_write_end = ext4__write_end.define("ext4_journalled_write_end")
ext4_da_write_end = ext4__write_end.define("ext4_da_write_end")


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; long nr_to_write; long pages_skipped; loff_t range_start; loff_t range_end; "
        "unsigned long writeback_index; int sync_mode; char for_kupdate; char range_cyclic"),
    print_fmt=(
        '"dev %d,%d ino %lu nr_to_write %ld pages_skipped %ld range_start %lld range_end %lld sync_mode %d '
        'for_kupdate %d range_cyclic %d writeback_index %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->nr_to_write, '
        'REC->pages_skipped, REC->range_start, REC->range_end, REC->sync_mode, REC->for_kupdate, '
        'REC->range_cyclic, (unsigned long) REC->writeback_index'),
)
def ext4_writepages(inode: Inode, wbc: WritebackControl) -> Values:
    return (*inode_of(inode), wbc.nr_to_write, wbc.pages_skipped, wbc.range_start, wbc.range_end,
            inode.i_mapping.writeback_index, wbc.sync_mode, wbc.for_kupdate, wbc.range_cyclic)


@ext4.event(
    fields="dev_t dev; ino_t ino; unsigned long first_page; long nr_to_write; int sync_mode",
    print_fmt=(
        '"dev %d,%d ino %lu first_page %lu nr_to_write %ld sync_mode %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->first_page, '
        'REC->nr_to_write, REC->sync_mode'),
)
def ext4_da_write_pages(inode: Inode, first_page: int, wbc: WritebackControl) -> Values:
    return (*inode_of(inode), first_page, wbc.nr_to_write, wbc.sync_mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 lblk; __u32 len; __u32 flags",
    print_fmt=(
        '"dev %d,%d ino %lu lblk %llu len %u flags %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len, '
        '__print_flags(REC->flags, "", { ((((1UL))) << (5)), "N" }, { ((((1UL))) << (4)), "M" }, '
        '{ ((((1UL))) << (11)), "U" }, { ((((1UL))) << (9)), "B" })'),
)
def ext4_da_write_pages_extent(inode: Inode, map_: Any) -> Values:
    return (*inode_of(inode), map_.m_lblk, map_.m_len, map_.m_flags)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; int ret; int pages_written; long pages_skipped; unsigned long writeback_index; "
        "int sync_mode"),
    print_fmt=(
        '"dev %d,%d ino %lu ret %d pages_written %d pages_skipped %ld sync_mode %d writeback_index %lu", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, REC->ret, REC->pages_written, REC->pages_skipped, REC->sync_mode, '
        '(unsigned long) REC->writeback_index'),
)
def ext4_writepages_result(inode: Inode, wbc: WritebackControl, ret: int, pages_written: int) -> Values:
    return (*inode_of(inode), ret, pages_written, wbc.pages_skipped, inode.i_mapping.writeback_index, wbc.sync_mode)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; unsigned long index",
    print_fmt=(
        '"dev %d,%d ino %lu page_index %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned long) REC->index'),
)
def ext4__page_op(pfn: int) -> Values:
    return _page(pfn)


ext4_writepage = ext4__page_op.define("ext4_writepage")
ext4_readpage = ext4__page_op.define("ext4_readpage")
ext4_releasepage = ext4__page_op.define("ext4_releasepage")


@ext4.event_class(
    fields="dev_t dev; ino_t ino; unsigned long index; unsigned int offset; unsigned int length",
    print_fmt=(
        '"dev %d,%d ino %lu page_index %lu offset %u length %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned long) REC->index, '
        'REC->offset, REC->length'),
)
def ext4_invalidatepage_op(pfn: int, offset: int, length: int) -> Values:
    return (*_page(pfn), offset, length)


ext4_invalidatepage = ext4_invalidatepage_op.define("ext4_invalidatepage")
ext4_journalled_invalidatepage = ext4_invalidatepage_op.define("ext4_journalled_invalidatepage")


@ext4.event(
    fields="dev_t dev; ino_t ino; ino_t parent; int datasync",
    print_fmt=(
        '"dev %d,%d ino %lu parent %lu datasync %d ", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned long) REC->parent, '
        'REC->datasync'),
)
def ext4_sync_file_enter(file: Any, datasync: int) -> Values:
    return (*inode_of(file.f_inode), file.f_path.dentry.d_parent.d_inode.i_ino, datasync)


@ext4.event(
    fields="dev_t dev; ino_t ino; int ret",
    print_fmt=(
        '"dev %d,%d ino %lu ret %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->ret'),
)
def ext4_sync_file_exit(inode: Inode, ret: int) -> Values:
    return (*inode_of(inode), ret)


@ext4.event(
    fields="dev_t dev; int wait",
    print_fmt=(
        '"dev %d,%d wait %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->wait'),
)
def ext4_sync_fs(sb: SuperBlock, wait: int) -> Values:
    return (sb.s_dev, wait)


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 block; int is_metadata; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o is_metadata %d block %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->mode, REC->is_metadata, '
        'REC->block'),
)
def ext4_forget(inode: Inode, is_metadata: int, block: int) -> Values:
    return (*inode_of(inode), block, is_metadata, inode.i_mode)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; __u64 i_blocks; int used_blocks; int reserved_data_blocks; int quota_claim; "
        "__u16 mode"),
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o i_blocks %llu used_blocks %d reserved_data_blocks %d quota_claim %d", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, REC->mode, REC->i_blocks, REC->used_blocks, REC->reserved_data_blocks, '
        'REC->quota_claim'),
)
def ext4_da_update_reserve_space(inode: Inode, used_blocks: int, quota_claim: int) -> Values:
    return (*inode_of(inode), inode.i_blocks, used_blocks, inode.i_private.i_reserved_data_blocks, quota_claim,
            inode.i_mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 i_blocks; int reserved_data_blocks; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o i_blocks %llu reserved_data_blocks %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->mode, REC->i_blocks, '
        'REC->reserved_data_blocks'),
)
def ext4_da_reserve_space(inode: Inode) -> Values:
    return (*inode_of(inode), inode.i_blocks, inode.i_private.i_reserved_data_blocks, inode.i_mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 i_blocks; int freed_blocks; int reserved_data_blocks; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o i_blocks %llu freed_blocks %d reserved_data_blocks %d", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, REC->mode, REC->i_blocks, REC->freed_blocks, REC->reserved_data_blocks'),
)
def ext4_da_release_space(inode: Inode, freed_blocks: int) -> Values:
    return (*inode_of(inode), inode.i_blocks, freed_blocks, inode.i_private.i_reserved_data_blocks, inode.i_mode)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; loff_t offset; loff_t len; int mode",
    print_fmt=(
        '"dev %d,%d ino %lu offset %lld len %lld mode %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->offset, REC->len, '
        '__print_flags(REC->mode, "|", { 0x01, "KEEP_SIZE"}, { 0x02, "PUNCH_HOLE"}, { 0x04, "NO_HIDE_STALE"}, '
        '{ 0x08, "COLLAPSE_RANGE"}, { 0x10, "ZERO_RANGE"})'),
)
def ext4__fallocate_mode(inode: Inode, offset: int, len_: int, mode: int) -> Values:
    return (*inode_of(inode), offset, len_, mode)


ext4_fallocate_enter = ext4__fallocate_mode.define("ext4_fallocate_enter")
ext4_punch_hole = ext4__fallocate_mode.define("ext4_punch_hole")
ext4_zero_range = ext4__fallocate_mode.define("ext4_zero_range")


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t pos; unsigned int blocks; int ret",
    print_fmt=(
        '"dev %d,%d ino %lu pos %lld blocks %u ret %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pos, REC->blocks, '
        'REC->ret'),
)
def ext4_fallocate_exit(inode: Inode, offset: int, max_blocks: int, ret: int) -> Values:
    return (*inode_of(inode), offset, max_blocks, ret)


@ext4.event(
    fields="dev_t dev; ino_t ino; ino_t parent; loff_t size",
    print_fmt=(
        '"dev %d,%d ino %lu size %lld parent %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->size, '
        '(unsigned long) REC->parent'),
)
def ext4_unlink_enter(parent: Inode, dentry: Any) -> Values:
    return (*inode_of(dentry.d_inode), parent.i_ino, dentry.d_inode.i_size)


@ext4.event(
    fields="dev_t dev; ino_t ino; int ret",
    print_fmt=(
        '"dev %d,%d ino %lu ret %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->ret'),
)
def ext4_unlink_exit(dentry: Any, ret: int) -> Values:
    return (*inode_of(dentry.d_inode), ret)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; __u64 blocks",
    print_fmt=(
        '"dev %d,%d ino %lu blocks %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->blocks'),
)
def ext4__truncate(inode: Inode) -> Values:
    return (*inode_of(inode), inode.i_blocks)


ext4_truncate_enter = ext4__truncate.define("ext4_truncate_enter")
ext4_truncate_exit = ext4__truncate.define("ext4_truncate_exit")


@ext4.event(
    fields="dev_t dev; ino_t ino",
    print_fmt=(
        '"dev %d,%d ino %ld", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino'),
)
def ext4_load_inode(inode: Inode) -> Values:
    return inode_of(inode)


@ext4.event(
    fields="dev_t dev; unsigned long ip; int blocks; int rsv_blocks",
    print_fmt=(
        '"dev %d,%d blocks, %d rsv_blocks, %d caller %pS", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->blocks, REC->rsv_blocks, (void *)REC->ip'),
)
def ext4_journal_start(sb: SuperBlock, blocks: int, rsv_blocks: int, ip: int) -> Values:
    return (sb.s_dev, ip or caller_ip(sb.kernel, 2), blocks, rsv_blocks)


@ext4.event(
    fields="dev_t dev; unsigned long ip; int blocks",
    print_fmt=(
        '"dev %d,%d blocks, %d caller %pS", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->blocks, (void *)REC->ip'),
)
def ext4_journal_start_reserved(sb: SuperBlock, blocks: int, ip: int) -> Values:
    return (sb.s_dev, ip or caller_ip(sb.kernel, 2), blocks)


@ext4.event(
    fields="dev_t dev; ino_t ino; ino_t orig_ino; uid_t uid; gid_t gid; __u16 mode",
    print_fmt=(
        '"dev %d,%d orig_ino %lu ino %lu mode 0%o uid %u gid %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->orig_ino, '
        '(unsigned long) REC->ino, REC->mode, REC->uid, REC->gid'),
)
def ext4_other_inode_update_time(inode: Inode, orig_ino: int) -> Values:
    return (*inode_of(inode), orig_ino, inode.i_uid, inode.i_gid, inode.i_mode)


@ext4.event(
    fields="dev_t dev; ino_t ino; unsigned int data_blocks",
    print_fmt=(
        '"dev %d,%d ino %lu reserved_data_blocks %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->data_blocks'),
)
def ext4_alloc_da_blocks(inode: Inode) -> Values:
    return (*inode_of(inode), inode.i_private.i_reserved_data_blocks)


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t pos; unsigned long len; int rw",
    print_fmt=(
        '"dev %d,%d ino %lu pos %lld len %lu rw %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pos, REC->len, REC->rw'),
)
def ext4_direct_IO_enter(inode: Inode, offset: int, len_: int, rw: int) -> Values:
    return (*inode_of(inode), offset, len_, rw)


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t pos; unsigned long len; int rw; int ret",
    print_fmt=(
        '"dev %d,%d ino %lu pos %lld len %lu rw %d ret %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pos, REC->len, REC->rw, '
        'REC->ret'),
)
def ext4_direct_IO_exit(inode: Inode, offset: int, len_: int, rw: int, ret: int) -> Values:
    return (*inode_of(inode), offset, len_, rw, ret)


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t offset; loff_t len",
    print_fmt=(
        '"dev %d,%d ino %lu offset %lld len %lld", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->offset, REC->len'),
)
def ext4_collapse_range(inode: Inode, offset: int, len_: int) -> Values:
    return (*inode_of(inode), offset, len_)


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t offset; loff_t len",
    print_fmt=(
        '"dev %d,%d ino %lu offset %lld len %lld", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->offset, REC->len'),
)
def ext4_insert_range(inode: Inode, offset: int, len_: int) -> Values:
    return (*inode_of(inode), offset, len_)


@ext4.event(
    fields="dev_t dev; unsigned flags",
    print_fmt=(
        '"dev %d,%d flags %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->flags'),
)
def ext4_shutdown(sb: SuperBlock, flags: int) -> Values:
    return (sb.s_dev, flags)
