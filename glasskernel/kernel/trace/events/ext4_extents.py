"""ext4: extents, on disk and in memory.

Linux: include/trace/events/ext4.h (5.3).
Differs: an extent is (ee_block, ee_len, ee_start, unwritten). Gaps: partial clusters (bigalloc): there are none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.events.ext4 import ext4, inode_of
from glasskernel.kernel.trace.trace_events import Values

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock

SHOW_MAP_FLAGS = (
    '__print_flags(REC->flags, "|", { 0x0001, "CREATE" }, { 0x0002, "UNWRIT" }, { 0x0004, "DELALLOC" }, { 0x0008, '
    '"PRE_IO" }, { 0x0010, "CONVERT" }, { 0x0020, "METADATA_NOFAIL" }, { 0x0040, "NO_NORMALIZE" }, { 0x0100, '
    '"CONVERT_UNWRITTEN" }, { 0x0200, "ZERO" }, { 0x0400, "IO_SUBMIT" }, { 0x40000000, "EX_NOCACHE" })'
)

Extent = tuple[int, int, int, bool]


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; ext4_lblk_t m_lblk; unsigned m_len; ext4_lblk_t u_lblk; unsigned u_len; "
        "ext4_fsblk_t u_pblk"),
    print_fmt=(
        '"dev %d,%d ino %lu m_lblk %u m_len %u u_lblk %u u_len %u u_pblk %llu", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, REC->m_lblk, REC->m_len, REC->u_lblk, REC->u_len, REC->u_pblk'),
)
def ext4_ext_convert_to_initialized_enter(inode: Inode, map_: Any, ux: Extent) -> Values:
    return (*inode_of(inode), map_.m_lblk, map_.m_len, ux[0], ux[1], ux[2])


@ext4.event_class(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk; unsigned int len; unsigned int flags",
    print_fmt=(
        ('"dev %d,%d ino %lu lblk %u len %u flags %s", ((unsigned int) ((REC->dev) >> 20)), '
         '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len, ')
        + SHOW_MAP_FLAGS),
)
def ext4__map_blocks_enter(inode: Inode, lblk: int, len_: int, flags: int) -> Values:
    return (*inode_of(inode), lblk, len_, flags)


ext4_ext_map_blocks_enter = ext4__map_blocks_enter.define("ext4_ext_map_blocks_enter")
ext4_ind_map_blocks_enter = ext4__map_blocks_enter.define("ext4_ind_map_blocks_enter")


@ext4.event_class(
    fields=(
        "dev_t dev; ino_t ino; unsigned int flags; ext4_fsblk_t pblk; ext4_lblk_t lblk; unsigned int len; "
        "unsigned int mflags; int ret"),
    print_fmt=(
        ('"dev %d,%d ino %lu flags %s lblk %u pblk %llu len %u mflags %s ret %d", '
         '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
         '(unsigned long) REC->ino, ')
        + SHOW_MAP_FLAGS
        + (', REC->lblk, REC->pblk, REC->len, __print_flags(REC->mflags, "", { ((((1UL))) << (5)), "N" }, '
           '{ ((((1UL))) << (4)), "M" }, { ((((1UL))) << (11)), "U" }, { ((((1UL))) << (9)), "B" }), REC->ret')),
)
def ext4__map_blocks_exit(inode: Inode, flags: int, map_: Any, ret: int) -> Values:
    return (*inode_of(inode), flags, map_.m_pblk, map_.m_lblk, map_.m_len, map_.m_flags, ret)


ext4_ext_map_blocks_exit = ext4__map_blocks_exit.define("ext4_ext_map_blocks_exit")
ext4_ind_map_blocks_exit = ext4__map_blocks_exit.define("ext4_ind_map_blocks_exit")


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_fsblk_t pblk; ext4_lblk_t lblk",
    print_fmt=(
        '"dev %d,%d ino %lu lblk %u pblk %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->pblk'),
)
def ext4_ext_load_extent(inode: Inode, lblk: int, pblk: int) -> Values:
    return (*inode_of(inode), pblk, lblk)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; int flags; ext4_lblk_t lblk; ext4_fsblk_t pblk; unsigned int len; "
        "unsigned int allocated; ext4_fsblk_t newblk"),
    print_fmt=(
        ('"dev %d,%d ino %lu m_lblk %u m_pblk %llu m_len %u flags %s allocated %d newblock %llu", '
         '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
         '(unsigned long) REC->ino, (unsigned) REC->lblk, (unsigned long long) REC->pblk, REC->len, ')
        + SHOW_MAP_FLAGS
        + ', (unsigned int) REC->allocated, (unsigned long long) REC->newblk'),
)
def ext4_ext_handle_unwritten_extents(inode: Inode, map_: Any, flags: int, allocated: int, newblock: int) -> Values:
    return (*inode_of(inode), flags, map_.m_lblk, map_.m_pblk, map_.m_len, allocated, newblock)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; ext4_lblk_t from; ext4_lblk_t to; ext4_fsblk_t ee_pblk; ext4_lblk_t ee_lblk; "
        "unsigned short ee_len; ext4_fsblk_t pc_pclu; ext4_lblk_t pc_lblk; int pc_state"),
    print_fmt=(
        '"dev %d,%d ino %lu extent [%u(%llu), %u]from %u to %u partial [pclu %lld lblk %u state %d]", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, (unsigned) REC->ee_lblk, (unsigned long long) REC->ee_pblk, '
        '(unsigned short) REC->ee_len, (unsigned) REC->from, (unsigned) REC->to, (long long) REC->pc_pclu, '
        '(unsigned int) REC->pc_lblk, (int) REC->pc_state'),
)
def ext4_remove_blocks(inode: Inode, ex: Extent, from_: int, to: int, partial: None) -> Values:
    return (*inode_of(inode), from_, to, ex[2], ex[0], ex[1], 0, 0, 0)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; ext4_lblk_t start; ext4_lblk_t ee_lblk; ext4_fsblk_t ee_pblk; short ee_len; "
        "ext4_fsblk_t pc_pclu; ext4_lblk_t pc_lblk; int pc_state"),
    print_fmt=(
        '"dev %d,%d ino %lu start_lblk %u last_extent [%u(%llu), %u]partial [pclu %lld lblk %u state %d]", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, (unsigned) REC->start, (unsigned) REC->ee_lblk, '
        '(unsigned long long) REC->ee_pblk, (unsigned short) REC->ee_len, (long long) REC->pc_pclu, '
        '(unsigned int) REC->pc_lblk, (int) REC->pc_state'),
)
def ext4_ext_rm_leaf(inode: Inode, start: int, ex: Extent | None, partial: None) -> Values:
    """ex None: the leaf is empty."""
    if ex is None:
        ex = (0, 0, 0, False)
    return (*inode_of(inode), start, ex[0], ex[2], ex[1], 0, 0, 0)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_fsblk_t pblk",
    print_fmt=(
        '"dev %d,%d ino %lu index_pblk %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, '
        '(unsigned long long) REC->pblk'),
)
def ext4_ext_rm_idx(inode: Inode, pblk: int) -> Values:
    return (*inode_of(inode), pblk)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t start; ext4_lblk_t end; int depth",
    print_fmt=(
        '"dev %d,%d ino %lu since %u end %u depth %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned) REC->start, '
        '(unsigned) REC->end, REC->depth'),
)
def ext4_ext_remove_space(inode: Inode, start: int, end: int, depth: int) -> Values:
    return (*inode_of(inode), start, end, depth)


@ext4.event_class(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk; ext4_lblk_t len; ext4_fsblk_t pblk; char status",
    print_fmt=(
        '"dev %d,%d ino %lu es [%u/%u) mapped %llu status %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len, '
        'REC->pblk, __print_flags(REC->status, "", { (1 << 0), "W" }, { (1 << 1), "U" }, { (1 << 2), "D" }, '
        '{ (1 << 3), "H" }, { (1 << 4), "R" })'),
)
def ext4__es_extent(inode: Inode, es: Any) -> Values:
    return (*inode_of(inode), es.es_lblk, es.es_len, es.es_pblk, es.es_status)


ext4_es_insert_extent = ext4__es_extent.define("ext4_es_insert_extent")
ext4_es_cache_extent = ext4__es_extent.define("ext4_es_cache_extent")


@ext4.event(
    fields="dev_t dev; ino_t ino; loff_t lblk; loff_t len",
    print_fmt=(
        '"dev %d,%d ino %lu es [%lld/%lld)", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len'),
)
def ext4_es_remove_extent(inode: Inode, lblk: int, len_: int) -> Values:
    return (*inode_of(inode), lblk, len_)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk",
    print_fmt=(
        '"dev %d,%d ino %lu lblk %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk'),
)
def ext4_es_lookup_extent_enter(inode: Inode, lblk: int) -> Values:
    return (*inode_of(inode), lblk)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk; ext4_lblk_t len; ext4_fsblk_t pblk; char status; int found",
    print_fmt=(
        '"dev %d,%d ino %lu found %d [%u/%u) %llu %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->found, REC->lblk, '
        'REC->len, REC->found ? REC->pblk : 0, __print_flags(REC->found ? REC->status : 0, "", { (1 << 0), "W" }, '
        '{ (1 << 1), "U" }, { (1 << 2), "D" }, { (1 << 3), "H" }, { (1 << 4), "R" })'),
)
def ext4_es_lookup_extent_exit(inode: Inode, es: Any, found: int) -> Values:
    return (*inode_of(inode), es.es_lblk, es.es_len, es.es_pblk, es.es_status, found)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk; ext4_lblk_t len; ext4_fsblk_t pblk; char status; bool allocated",
    print_fmt=(
        '"dev %d,%d ino %lu es [%u/%u) mapped %llu status %s allocated %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len, '
        'REC->pblk, __print_flags(REC->status, "", { (1 << 0), "W" }, { (1 << 1), "U" }, { (1 << 2), "D" }, '
        '{ (1 << 3), "H" }, { (1 << 4), "R" }), REC->allocated'),
)
def ext4_es_insert_delayed_block(inode: Inode, es: Any, allocated: bool) -> Values:
    return (*inode_of(inode), es.es_lblk, es.es_len, es.es_pblk, es.es_status, allocated)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; ext4_lblk_t m_lblk; unsigned m_len; ext4_lblk_t u_lblk; unsigned u_len; "
        "ext4_fsblk_t u_pblk; ext4_lblk_t i_lblk; unsigned i_len; ext4_fsblk_t i_pblk"),
    print_fmt=(
        '"dev %d,%d ino %lu m_lblk %u m_len %u u_lblk %u u_len %u u_pblk %llu i_lblk %u i_len %u i_pblk %llu ", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, REC->m_lblk, REC->m_len, REC->u_lblk, REC->u_len, REC->u_pblk, REC->i_lblk, '
        'REC->i_len, REC->i_pblk'),
)
def ext4_ext_convert_to_initialized_fastpath(inode: Inode, map_: Any, ux: Extent, ix: Extent) -> Values:
    return (*inode_of(inode), map_.m_lblk, map_.m_len, ux[0], ux[1], ux[2], ix[0], ix[1], ix[2])


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_fsblk_t pblk; ext4_lblk_t lblk; unsigned short len",
    print_fmt=(
        '"dev %d,%d ino %lu lblk %u pblk %llu len %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, (unsigned) REC->lblk, '
        '(unsigned long long) REC->pblk, (unsigned short) REC->len'),
)
def ext4_ext_show_extent(inode: Inode, lblk: int, pblk: int, len_: int) -> Values:
    return (*inode_of(inode), pblk, lblk, len_)


@ext4.event(
    fields=(
        "dev_t dev; ino_t ino; ext4_lblk_t start; ext4_lblk_t end; int depth; ext4_fsblk_t pc_pclu; "
        "ext4_lblk_t pc_lblk; int pc_state; unsigned short eh_entries"),
    print_fmt=(
        '"dev %d,%d ino %lu since %u end %u depth %d partial [pclu %lld lblk %u state %d] remaining_entries %u", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), '
        '(unsigned long) REC->ino, (unsigned) REC->start, (unsigned) REC->end, REC->depth, '
        '(long long) REC->pc_pclu, (unsigned int) REC->pc_lblk, (int) REC->pc_state, '
        '(unsigned short) REC->eh_entries'),
)
def ext4_ext_remove_space_done(inode: Inode, start: int, end: int, depth: int, partial: None,
                               eh_entries: int) -> Values:
    return (*inode_of(inode), start, end, depth, 0, 0, 0, eh_entries)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk",
    print_fmt=(
        '"dev %d,%d ino %lu lblk %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk'),
)
def ext4_es_find_extent_range_enter(inode: Inode, lblk: int) -> Values:
    return (*inode_of(inode), lblk)


@ext4.event(
    fields="dev_t dev; ino_t ino; ext4_lblk_t lblk; ext4_lblk_t len; ext4_fsblk_t pblk; char status",
    print_fmt=(
        '"dev %d,%d ino %lu es [%u/%u) mapped %llu status %s", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino, REC->lblk, REC->len, '
        'REC->pblk, __print_flags(REC->status, "", { (1 << 0), "W" }, { (1 << 1), "U" }, { (1 << 2), "D" }, '
        '{ (1 << 3), "H" }, { (1 << 4), "R" })'),
)
def ext4_es_find_extent_range_exit(inode: Inode, es: Any) -> Values:
    return (*inode_of(inode), es.es_lblk, es.es_len, es.es_pblk, es.es_status)


@ext4.event_class(
    fields="dev_t dev; int nr_to_scan; int cache_cnt",
    print_fmt=(
        '"dev %d,%d nr_to_scan %d cache_cnt %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->nr_to_scan, REC->cache_cnt'),
)
def ext4__es_shrink_enter(sb: SuperBlock, nr_to_scan: int, cache_cnt: int) -> Values:
    return (sb.s_dev, nr_to_scan, cache_cnt)


ext4_es_shrink_count = ext4__es_shrink_enter.define("ext4_es_shrink_count")
ext4_es_shrink_scan_enter = ext4__es_shrink_enter.define("ext4_es_shrink_scan_enter")


@ext4.event(
    fields="dev_t dev; int nr_shrunk; int cache_cnt",
    print_fmt=(
        '"dev %d,%d nr_shrunk %d cache_cnt %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->nr_shrunk, REC->cache_cnt'),
)
def ext4_es_shrink_scan_exit(sb: SuperBlock, nr_shrunk: int, cache_cnt: int) -> Values:
    return (sb.s_dev, nr_shrunk, cache_cnt)


@ext4.event(
    fields="dev_t dev; int nr_shrunk; unsigned long long scan_time; int nr_skipped; int retried",
    print_fmt=(
        '"dev %d,%d nr_shrunk %d, scan_time %llu nr_skipped %d retried %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->nr_shrunk, REC->scan_time, REC->nr_skipped, '
        'REC->retried'),
)
def ext4_es_shrink(sb: SuperBlock, nr_shrunk: int, scan_time: int, nr_skipped: int, retried: int) -> Values:
    return (sb.s_dev, nr_shrunk, scan_time, nr_skipped, retried)
