"""ext4: the block allocator.

Linux: include/trace/events/ext4.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.events.ext4 import ext4, inode_of
from glasskernel.kernel.trace.trace_events import Values

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock

SHOW_MBALLOC_FLAGS = (
    '__print_flags(REC->flags, "|", { 0x0001, "HINT_MERGE" }, { 0x0002, "HINT_RESV" }, { 0x0004, "HINT_MDATA" }, '
    '{ 0x0008, "HINT_FIRST" }, { 0x0010, "HINT_BEST" }, { 0x0020, "HINT_DATA" }, { 0x0040, "HINT_NOPREALLOC" }, '
    '{ 0x0080, "HINT_GRP_ALLOC" }, { 0x0100, "HINT_GOAL_ONLY" }, { 0x0200, "HINT_TRY_GOAL" }, { 0x0400, '
    '"DELALLOC_RESV" }, { 0x0800, "STREAM_ALLOC" }, { 0x1000, "USE_ROOT_BLKS" }, { 0x2000, "USE_RESV" }, { 0x4000, '
    '"STRICT_CHECK" })'
)


@ext4.event(
    fields="dev_t dev; __u64 blk; __u64 count",
    print_fmt=(
        '"dev %d,%d blk %llu count %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->blk, REC->count'),
)
def ext4_discard_blocks(sb: SuperBlock, blk: int, count: int) -> Values:
    return (sb.s_dev, blk, count)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; __u64 pa_pstart; __u64 pa_lstart; __u32 pa_len",
    print_fmt=(
        '"dev %d,%d ino %lu pstart %llu len %u lstart %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->pa_pstart, REC->pa_len, '
        'REC->pa_lstart'),
)
def ext4__mb_new_pa(ac: Any, pa: Any) -> Values:
    return (ac.ac_sb.s_dev, ac.ac_inode.i_ino, pa.pa_pstart, pa.pa_lstart, pa.pa_len)


ext4_mb_new_inode_pa = ext4__mb_new_pa.define("ext4_mb_new_inode_pa")
ext4_mb_new_group_pa = ext4__mb_new_pa.define("ext4_mb_new_group_pa")


@ext4.event(
    fields="dev_t dev; ino_t ino",
    print_fmt=(
        '"dev %d,%d ino %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino'),
)
def ext4_discard_preallocations(inode: Inode) -> Values:
    return inode_of(inode)


@ext4.event(
    fields="dev_t dev; int needed",
    print_fmt=(
        '"dev %d,%d needed %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->needed'),
)
def ext4_mb_discard_preallocations(sb: SuperBlock, needed: int) -> Values:
    return (sb.s_dev, needed)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; unsigned int len; __u32 logical; __u32 lleft; __u32 lright; __u64 goal; __u64 pleft; "
        "__u64 pright; unsigned int flags"),
    print_fmt=(
        ('"dev %d,%d ino %lu flags %s len %u lblk %u goal %llu lleft %u lright %u pleft %llu pright %llu ", '
         '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
         '(unsigned long) REC->ino, ')
        + SHOW_MBALLOC_FLAGS
        + ', REC->len, REC->logical, REC->goal, REC->lleft, REC->lright, REC->pleft, REC->pright'),
)
def ext4_request_blocks(ar: Any) -> Values:
    return (*inode_of(ar.inode), ar.len, ar.logical, ar.lleft, ar.lright, ar.goal, ar.pleft, ar.pright, ar.flags)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; __u64 block; unsigned int len; __u32 logical; __u32 lleft; __u32 lright; __u64 goal; "
        "__u64 pleft; __u64 pright; unsigned int flags"),
    print_fmt=(
        ('"dev %d,%d ino %lu flags %s len %u block %llu lblk %u goal %llu lleft %u lright %u pleft %llu pright '
         '%llu", ((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
         '(unsigned long) REC->ino, ')
        + SHOW_MBALLOC_FLAGS
        + ', REC->len, REC->block, REC->logical, REC->goal, REC->lleft, REC->lright, REC->pleft, REC->pright'),
)
def ext4_allocate_blocks(ar: Any, block: int) -> Values:
    return (*inode_of(ar.inode), block, ar.len, ar.logical, ar.lleft, ar.lright, ar.goal, ar.pleft, ar.pright, ar.flags)


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 block; unsigned long count; int flags; __u16 mode",
    print_fmt=(
        '"dev %d,%d ino %lu mode 0%o block %llu count %lu flags %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->mode, REC->block, '
        'REC->count, __print_flags(REC->flags, "|", { 0x0001, "METADATA" }, { 0x0002, "FORGET" }, { 0x0004, '
        '"VALIDATED" }, { 0x0008, "NO_QUOTA" }, { 0x0010,"1ST_CLUSTER" }, { 0x0020, "LAST_CLUSTER" })'),
)
def ext4_free_blocks(inode: Inode, block: int, count: int, flags: int) -> Values:
    return (*inode_of(inode), block, count, flags, inode.i_mode)


@ext4.event_class(
    fields="dev_t dev; __u32 group",
    print_fmt=(
        '"dev %d,%d group %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->group'),
)
def ext4__bitmap_load(sb: SuperBlock, group: int) -> Values:
    return (sb.s_dev, group)


ext4_mb_bitmap_load = ext4__bitmap_load.define("ext4_mb_bitmap_load")
ext4_mb_buddy_bitmap_load = ext4__bitmap_load.define("ext4_mb_buddy_bitmap_load")
ext4_load_inode_bitmap = ext4__bitmap_load.define("ext4_load_inode_bitmap")
ext4_read_block_bitmap_load = ext4__bitmap_load.define("ext4_read_block_bitmap_load")


@ext4.event(
    fields="dev_t dev; ino_t ino; __u64 block; __u32 count",
    print_fmt=(
        '"dev %d,%d ino %lu block %llu count %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->block, REC->count'),
)
def ext4_mb_release_inode_pa(pa: Any, block: int, count: int) -> Values:
    return (*inode_of(pa.pa_inode), block, count)


@ext4.event(
    fields="dev_t dev; __u64 pa_pstart; __u32 pa_len",
    print_fmt=(
        '"dev %d,%d pstart %llu len %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->pa_pstart, REC->pa_len'),
)
def ext4_mb_release_group_pa(sb: SuperBlock, pa: Any) -> Values:
    return (sb.s_dev, pa.pa_pstart, pa.pa_len)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; __u32 orig_logical; int orig_start; __u32 orig_group; int orig_len; "
        "__u32 goal_logical; int goal_start; __u32 goal_group; int goal_len; __u32 result_logical; "
        "int result_start; __u32 result_group; int result_len; __u16 found; __u16 groups; __u16 buddy; __u16 flags; "
        "__u16 tail; __u8 cr"),
    print_fmt=(
        ('"dev %d,%d inode %lu orig %u/%d/%u@%u goal %u/%d/%u@%u result %u/%d/%u@%u blks %u grps %u cr %u flags %s '
         'tail %u broken %u", ((unsigned int) ((REC->dev) >> 20)), '
         '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->orig_group, '
         'REC->orig_start, REC->orig_len, REC->orig_logical, REC->goal_group, REC->goal_start, REC->goal_len, '
         'REC->goal_logical, REC->result_group, REC->result_start, REC->result_len, REC->result_logical, '
         'REC->found, REC->groups, REC->cr, ')
        + SHOW_MBALLOC_FLAGS
        + ', REC->tail, REC->buddy ? 1 << REC->buddy : 0'),
)
def ext4_mballoc_alloc(ac: Any) -> Values:
    orig, goal, result = ac.ac_o_ex, ac.ac_g_ex, ac.ac_f_ex
    return (ac.ac_inode.i_sb.s_dev, ac.ac_inode.i_ino, orig.fe_logical, orig.fe_start, orig.fe_group, orig.fe_len,
            goal.fe_logical, goal.fe_start, goal.fe_group, goal.fe_len, result.fe_logical, result.fe_start,
            result.fe_group, result.fe_len, ac.ac_found, ac.ac_groups_scanned, getattr(ac, "ac_buddy", 0), ac.ac_flags,
            getattr(ac, "ac_tail", 0), ac.ac_criteria)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; __u32 orig_logical; int orig_start; __u32 orig_group; int orig_len; "
        "__u32 result_logical; int result_start; __u32 result_group; int result_len"),
    print_fmt=(
        '"dev %d,%d inode %lu orig %u/%d/%u@%u result %u/%d/%u@%u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->orig_group, '
        'REC->orig_start, REC->orig_len, REC->orig_logical, REC->result_group, REC->result_start, '
        'REC->result_len, REC->result_logical'),
)
def ext4_mballoc_prealloc(ac: Any) -> Values:
    orig, result = ac.ac_o_ex, ac.ac_b_ex
    return (ac.ac_inode.i_sb.s_dev, ac.ac_inode.i_ino, orig.fe_logical, orig.fe_start, orig.fe_group, orig.fe_len,
            result.fe_logical, result.fe_start, result.fe_group, result.fe_len)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; int result_start; __u32 result_group; int result_len",
    print_fmt=(
        '"dev %d,%d inode %lu extent %u/%d/%d ", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->result_group, '
        'REC->result_start, REC->result_len'),
)
def ext4__mballoc(sb: SuperBlock, inode: Inode | None, group: int, start: int, len_: int) -> Values:
    return (sb.s_dev, inode.i_ino if inode is not None else 0, start, group, len_)


ext4_mballoc_discard = ext4__mballoc.define("ext4_mballoc_discard")
ext4_mballoc_free = ext4__mballoc.define("ext4_mballoc_free")


@ext4.event_class(
    fields="int dev_major; int dev_minor; __u32 group; int start; int len",
    print_fmt=(
        '"dev %d,%d group %u, start %d, len %d", REC->dev_major, REC->dev_minor, REC->group, REC->start, REC->len'),
)
def ext4__trim(sb: SuperBlock, group: int, start: int, len_: int) -> Values:
    return (sb.s_dev >> 20, sb.s_dev & 0xFFFFF, group, start, len_)


ext4_trim_extent = ext4__trim.define("ext4_trim_extent")
ext4_trim_all_free = ext4__trim.define("ext4_trim_all_free")
