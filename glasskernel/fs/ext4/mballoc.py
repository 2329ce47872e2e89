"""Allocating and freeing blocks: many at a time, near a goal, with some kept back for what comes next.

Linux: fs/ext4/mballoc.c (5.3). Same: normalization of requests, locality groups for small files, preallocation for
    large ones, the four criteria of the search, stream allocation, blocks that are free only after commit, FITRIM.
Differs: see mballoc_buddy.py; extents found by a scan are whole runs instead of chains of buddies.
Owns: sbi.s_locality_groups, s_freed_data_list, every Ext4PreallocSpace.
Invariant: sum of pa_free of a group's preallocations == blocks that are taken in its runs and free on disk, apart
    from those in bb_freed.
Lock order: i_data_sem, lg_mutex.  Gaps: RAID stripe alignment, bigalloc, resize.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import sb_find_get_block, sb_issue_discard
from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.balloc import (
    clear_bits,
    ext4_block_bitmap_csum_set,
    ext4_claim_free_clusters,
    ext4_free_group_clusters,
    ext4_free_group_clusters_set,
    ext4_get_group_desc,
    ext4_get_group_no_and_offset,
    ext4_group_desc_csum_set,
    ext4_group_first_block_no,
    ext4_has_group_desc_csum,
    ext4_num_clusters_in_group,
    ext4_read_block_bitmap,
    set_bits,
)
from glasskernel.fs.ext4.block_validity import ext4_data_block_valid
from glasskernel.fs.ext4.errors import EFSCORRUPTED, KERN_INFO, KERN_WARNING, ext4_error, ext4_msg, ext4_std_error
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_WRITEBACK_DATA_MODE,
    Handle,
    ext4_forget,
    ext4_handle_dirty_metadata,
    ext4_handle_valid,
    ext4_inode_journal_mode,
    ext4_journal_get_write_access,
)
from glasskernel.fs.ext4.mballoc_buddy import (
    MB_GROUP_PA,
    MB_INODE_PA,
    Ext4FreeData,
    Ext4FreeExtent,
    Ext4PreallocSpace,
    buddies,
    ext4_mb_add_groupinfo,
    ext4_mb_init_group,
    ext4_mb_load_buddy,
    free_runs,
    max_order,
    mb_find_extent,
    mb_free_blocks,
    mb_mark_used,
)
from glasskernel.fs.ext4.types import (
    EXT4_BG_BLOCK_UNINIT,
    EXT4_FREE_BLOCKS_FORGET,
    EXT4_FREE_BLOCKS_METADATA,
    EXT4_FREE_BLOCKS_VALIDATED,
    EXT4_GROUP_INFO_BBITMAP_CORRUPT,
    EXT4_GROUP_INFO_NEED_INIT,
    EXT4_GROUP_INFO_WAS_TRIMMED,
    EXT4_I,
    EXT4_MOUNT_DISCARD,
    EXT4_SB,
    ext4_blocks_count,
    test_opt,
)
from glasskernel.fs.fs_writeback import mark_inode_dirty_sync
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.sched.core import cond_resched, fatal_signal_pending
from glasskernel.lib.errno import EINVAL, ENOSPC, EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.ext4.types import Ext4GroupInfo
    from glasskernel.fs.types import Inode, SuperBlock

EXT4_MB_HINT_MERGE, EXT4_MB_HINT_RESERVED, EXT4_MB_HINT_METADATA, EXT4_MB_HINT_FIRST = 1, 2, 4, 8
EXT4_MB_HINT_BEST, EXT4_MB_HINT_DATA, EXT4_MB_HINT_NOPREALLOC, EXT4_MB_HINT_GROUP_ALLOC = 0x10, 0x20, 0x40, 0x80
EXT4_MB_HINT_GOAL_ONLY, EXT4_MB_HINT_TRY_GOAL, EXT4_MB_DELALLOC_RESERVED, EXT4_MB_STREAM_ALLOC = (
    0x100,
    0x200,
    0x400,
    0x800,
)
EXT4_MB_USE_ROOT_BLOCKS, EXT4_MB_USE_RESERVED = 0x1000, 0x2000
AC_STATUS_CONTINUE, AC_STATUS_FOUND, AC_STATUS_BREAK = 1, 2, 3
PREALLOC_TB_SIZE = 10


@slotted
class Ext4AllocationRequest:
    """struct ext4_allocation_request: logical block and goal; the allocated neighbours left and right (0: none)."""

    inode: Inode
    len: int = 1
    logical: int = 0
    goal: int = 0
    lleft: int = 0
    pleft: int = 0
    lright: int = 0
    pright: int = 0
    flags: int = 0


@slotted
class Ext4LocalityGroup:
    """struct ext4_locality_group: small files written on one CPU share preallocated blocks, by log2 of what is left."""

    lg_mutex: Mutex = field(default_factory=Mutex)
    lg_prealloc_list: list[list[Ext4PreallocSpace]] = field(
        default_factory=lambda: [[] for _ in range(PREALLOC_TB_SIZE)])


EXT4_MB_HISTORY_ALLOC, EXT4_MB_HISTORY_PREALLOC = 1, 2


@slotted
class Ext4AllocationContext:
    """struct ext4_allocation_context. o_ex: asked for; g_ex: normalized goal; b_ex: best found; f_ex: found."""

    ac_inode: Inode
    ac_sb: SuperBlock
    ac_o_ex: Ext4FreeExtent
    ac_g_ex: Ext4FreeExtent
    ac_b_ex: Ext4FreeExtent
    ac_f_ex: Ext4FreeExtent
    ac_flags: int = 0
    ac_status: int = AC_STATUS_CONTINUE
    ac_criteria: int = 0
    ac_2order: int = 0
    ac_groups_scanned: int = 0
    ac_found: int = 0
    ac_op: int = EXT4_MB_HISTORY_PREALLOC
    ac_pa: Ext4PreallocSpace | None = None
    ac_lg: Ext4LocalityGroup | None = None


@notrace
def ext4_grp_offs_to_block(sb: SuperBlock, fex: Ext4FreeExtent) -> int:
    return ext4_group_first_block_no(sb, fex.fe_group) + fex.fe_start


# ---- mount -------------------------------------------------------------------------------------------------
def ext4_mb_init(sb: SuperBlock) -> None:
    """Group descriptors in memory, locality groups. Bitmaps are read when a group is first looked at."""
    sbi = EXT4_SB(sb)
    sbi.s_mb_group_prealloc = max(512, 32)
    ext4_mb_init_backend(sb)
    sbi.s_locality_groups = [Ext4LocalityGroup() for _ in sb.kernel.machine.cpus]


def ext4_mb_init_backend(sb: SuperBlock) -> None:
    sbi = EXT4_SB(sb)
    sbi.s_group_info = [ext4_mb_add_groupinfo(sb, group) for group in range(sbi.s_groups_count)]


def ext4_mb_release(sb: SuperBlock) -> None:
    """Context: umount, after the last commit."""
    sbi = EXT4_SB(sb)
    for grp in sbi.s_group_info:
        ext4_mb_cleanup_pa(grp)
    sbi.s_group_info = []
    sbi.s_locality_groups = []
    if sbi.s_mb_stats:
        ext4_msg(sb, KERN_INFO, f"mballoc: {sbi.s_bal_allocated} blocks {sbi.s_bal_reqs} reqs "
                 f"({sbi.s_bal_success} success)")
        ext4_msg(sb, KERN_INFO, f"mballoc: {sbi.s_bal_ex_scanned} extents scanned, {sbi.s_bal_goals} goal hits, "
                 f"{sbi.s_bal_2orders} 2^N hits, {sbi.s_bal_breaks} breaks, 0 lost")
        ext4_msg(sb, KERN_INFO, f"mballoc: {sbi.s_mb_generated} generated and it took 0")
        ext4_msg(sb, KERN_INFO, f"mballoc: {sbi.s_mb_preallocated} preallocated, {sbi.s_mb_discarded} discarded")


def ext4_mb_cleanup_pa(grp: Ext4GroupInfo) -> None:
    grp.bb_prealloc_list.clear()


# ---- the search --------------------------------------------------------------------------------------------
def ext4_mb_use_best_found(ac: Ext4AllocationContext, grp: Ext4GroupInfo) -> None:
    """Takes ac_b_ex, cut to what is wanted."""
    sbi = EXT4_SB(ac.ac_sb)
    best = ac.ac_b_ex
    best.fe_len = min(best.fe_len, ac.ac_g_ex.fe_len)
    best.fe_logical = ac.ac_g_ex.fe_logical
    mb_mark_used(ac.ac_sb, grp, best)
    ac.ac_f_ex = best.copy()
    ac.ac_status = AC_STATUS_FOUND
    if ac.ac_flags & EXT4_MB_STREAM_ALLOC:
        sbi.s_mb_last_group = best.fe_group
        sbi.s_mb_last_start = best.fe_start


def ext4_mb_check_limits(ac: Ext4AllocationContext, grp: Ext4GroupInfo, finish_group: bool) -> None:
    """Has the search gone on long enough?"""
    sbi = EXT4_SB(ac.ac_sb)
    if ac.ac_status == AC_STATUS_FOUND:
        return
    if ac.ac_found > sbi.s_mb_max_to_scan and not ac.ac_flags & EXT4_MB_HINT_FIRST:
        ac.ac_status = AC_STATUS_BREAK
        return
    best, goal = ac.ac_b_ex, ac.ac_g_ex
    if best.fe_len < goal.fe_len:
        return
    if (finish_group or ac.ac_found > sbi.s_mb_min_to_scan) and best.fe_group == grp.bb_group:
        ex = mb_find_extent(grp, best.fe_start, goal.fe_len)
        if ex.fe_len >= goal.fe_len:
            ext4_mb_use_best_found(ac, grp)


def ext4_mb_measure_extent(ac: Ext4AllocationContext, ex: Ext4FreeExtent, grp: Ext4GroupInfo) -> None:
    """Is this extent better than the best one so far?"""
    best, goal = ac.ac_b_ex, ac.ac_g_ex
    ac.ac_found += 1
    if ac.ac_flags & EXT4_MB_HINT_FIRST or ex.fe_len == goal.fe_len:
        ac.ac_b_ex = ex
        ext4_mb_use_best_found(ac, grp)
        return
    if not best.fe_len:
        ac.ac_b_ex = ex
        return
    if best.fe_len < goal.fe_len:
        if ex.fe_len > best.fe_len:
            ac.ac_b_ex = ex
    elif goal.fe_len < ex.fe_len < best.fe_len:
        ac.ac_b_ex = ex
    ext4_mb_check_limits(ac, grp, False)


@may_sleep
def ext4_mb_try_best_found(ac: Ext4AllocationContext) -> None:
    ex = ac.ac_b_ex
    grp = ext4_mb_load_buddy(ac.ac_sb, ex.fe_group)
    if grp.bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        return
    found = mb_find_extent(grp, ex.fe_start, ex.fe_len)
    if found.fe_len > 0:
        ac.ac_b_ex = found
        ext4_mb_use_best_found(ac, grp)


@may_sleep
def ext4_mb_find_by_goal(ac: Ext4AllocationContext) -> None:
    """Is the goal itself free?"""
    if not ac.ac_flags & EXT4_MB_HINT_TRY_GOAL:
        return
    goal = ac.ac_g_ex
    sb = ac.ac_sb
    if not EXT4_SB(sb).s_group_info[goal.fe_group].bb_free:
        return
    grp = ext4_mb_load_buddy(sb, goal.fe_group)
    if grp.bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        return
    ex = mb_find_extent(grp, goal.fe_start, goal.fe_len)
    if ex.fe_len >= goal.fe_len or (ex.fe_len > 0 and ac.ac_flags & EXT4_MB_HINT_MERGE):
        ac.ac_found += 1
        ac.ac_b_ex = ex
        ext4_mb_use_best_found(ac, grp)


def ext4_mb_simple_scan_group(ac: Ext4AllocationContext, grp: Ext4GroupInfo) -> None:
    """A power of two is wanted: the first buddy that is large enough, the smallest order first."""
    top = max_order(ac.ac_sb)
    order = next((i for i in range(ac.ac_2order, top + 1) if grp.bb_counters[i]), -1)
    if order < 0:
        return
    ac.ac_found += 1
    for start, length in zip(grp.run_start, grp.run_len):
        if length >> order:
            for first, piece in buddies(start, length, top):
                if piece == order:
                    ac.ac_b_ex = Ext4FreeExtent(0, grp.bb_group, first, 1 << order)
                    ext4_mb_use_best_found(ac, grp)
                    return


def ext4_mb_complex_scan_group(ac: Ext4AllocationContext, grp: Ext4GroupInfo) -> None:
    """Looks at every free run of a group."""
    group = grp.bb_group
    for start, length in zip(grp.run_start[:], grp.run_len[:]):
        ext4_mb_measure_extent(ac, Ext4FreeExtent(0, group, start, length), grp)
        if ac.ac_status != AC_STATUS_CONTINUE:
            return
    ext4_mb_check_limits(ac, grp, True)


@may_sleep
def ext4_mb_good_group(ac: Ext4AllocationContext, group: int, cr: int) -> bool:
    """Is a group worth a look, by this criterion? Raises EIO, EFSCORRUPTED."""
    sb = ac.ac_sb
    sbi = EXT4_SB(sb)
    grp = sbi.s_group_info[group]
    wanted = ac.ac_g_ex.fe_len
    if not grp.bb_free or (cr <= 2 and grp.bb_free < wanted) or grp.bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        return False
    if grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
        ext4_mb_init_group(sb, group)
    if not grp.bb_fragments:
        return False
    if cr == 0:
        flex_size = 1 << sbi.s_log_groups_per_flex
        if ac.ac_flags & EXT4_MB_HINT_DATA and flex_size >= 4 and group % flex_size == 0:
            return False                             # left for directories
        if ac.ac_2order > max_order(sb) or grp.bb_free // grp.bb_fragments >= wanted:
            return True
        return grp.bb_largest_free_order >= ac.ac_2order
    if cr == 1:
        return grp.bb_free // grp.bb_fragments >= wanted
    return cr == 3 or grp.bb_free >= wanted


@may_sleep
def ext4_mb_regular_allocator(ac: Ext4AllocationContext) -> None:
    """Searches the goal, then group after group, each round with lower demands. Raises EIO, EFSCORRUPTED."""
    sb = ac.ac_sb
    sbi = EXT4_SB(sb)
    ngroups = sbi.s_groups_count
    if not EXT4_I(ac.ac_inode).i_flags & 0x80000:    # block maps have 32 bits
        ngroups = sbi.s_blockfile_groups or ngroups
    ext4_mb_find_by_goal(ac)
    if ac.ac_status == AC_STATUS_FOUND or ac.ac_flags & EXT4_MB_HINT_GOAL_ONLY:
        return
    wanted = ac.ac_g_ex.fe_len
    order = wanted.bit_length()
    ac.ac_2order = 0
    if sbi.s_mb_order2_reqs <= order <= sb.s_blocksize_bits + 2 and wanted == 1 << order - 1:
        ac.ac_2order = order - 1
    if ac.ac_flags & EXT4_MB_STREAM_ALLOC:
        ac.ac_g_ex.fe_group = sbi.s_mb_last_group
        ac.ac_g_ex.fe_start = sbi.s_mb_last_start
    first_err = 0
    cr = 0 if ac.ac_2order else 1
    while cr < 4 and ac.ac_status == AC_STATUS_CONTINUE:
        ac.ac_criteria = cr
        group = ac.ac_g_ex.fe_group
        for _ in range(ngroups):
            cond_resched()
            if group >= ngroups:
                group = 0
            try:
                good = ext4_mb_good_group(ac, group, cr)
                if good:
                    grp = ext4_mb_load_buddy(sb, group)
            except KernelError as e:
                first_err = first_err or e.errno
                good = False
            if good:
                ac.ac_groups_scanned += 1
                if cr == 0:
                    ext4_mb_simple_scan_group(ac, grp)
                else:
                    ext4_mb_complex_scan_group(ac, grp)
                if ac.ac_status != AC_STATUS_CONTINUE:
                    break
            group += 1
        cr += 1
        if cr == 4 and ac.ac_b_ex.fe_len > 0 and ac.ac_status == AC_STATUS_CONTINUE:
            break
    if ac.ac_b_ex.fe_len > 0 and ac.ac_status != AC_STATUS_FOUND and not ac.ac_flags & EXT4_MB_HINT_FIRST:
        ext4_mb_try_best_found(ac)
    if ac.ac_status != AC_STATUS_FOUND:
        ac.ac_status = AC_STATUS_CONTINUE
        if first_err:
            raise KernelError(first_err)


# ---- requests ----------------------------------------------------------------------------------------------
def ext4_mb_group_or_file(ac: Ext4AllocationContext) -> None:
    """A small file shares the preallocation of its CPU; a large one has its own."""
    sbi = EXT4_SB(ac.ac_sb)
    if not ac.ac_flags & EXT4_MB_HINT_DATA or ac.ac_flags & EXT4_MB_HINT_GOAL_ONLY:
        return
    bits = ac.ac_sb.s_blocksize_bits
    size = ac.ac_o_ex.fe_logical + ac.ac_o_ex.fe_len
    isize = ac.ac_inode.i_size + ac.ac_sb.s_blocksize - 1 >> bits
    if size == isize and not ac.ac_inode.i_writecount > 0:
        ac.ac_flags |= EXT4_MB_HINT_NOPREALLOC       # closed: nothing more will come
        return
    if sbi.s_mb_group_prealloc <= 0 or max(size, isize) > sbi.s_mb_stream_request:
        ac.ac_flags |= EXT4_MB_STREAM_ALLOC
        return
    ac.ac_lg = sbi.s_locality_groups[current().cpu]
    ac.ac_flags |= EXT4_MB_HINT_GROUP_ALLOC
    mutex_lock(ac.ac_lg.lg_mutex)


def ext4_mb_initialize_context(ac: Ext4AllocationContext, ar: Ext4AllocationRequest) -> None:
    sb = ac.ac_sb
    sbi = EXT4_SB(sb)
    length = min(ar.len, sbi.s_clusters_per_group)
    goal = ar.goal
    if not sbi.s_es.s_first_data_block <= goal < ext4_blocks_count(sbi.s_es):
        goal = sbi.s_es.s_first_data_block
    group, block = ext4_get_group_no_and_offset(sb, goal)
    ac.ac_o_ex = Ext4FreeExtent(ar.logical, group, block, length)
    ac.ac_g_ex = ac.ac_o_ex.copy()
    ac.ac_b_ex = Ext4FreeExtent(ar.logical)
    ac.ac_flags = ar.flags
    ext4_mb_group_or_file(ac)


def ext4_mb_normalize_group_request(ac: Ext4AllocationContext) -> None:
    ac.ac_g_ex.fe_len = EXT4_SB(ac.ac_sb).s_mb_group_prealloc


def ext4_mb_normalize_request(ac: Ext4AllocationContext, ar: Ext4AllocationRequest) -> None:
    """Asks for more than is needed now: up to the next power of two of the file's size, aligned."""
    flags = ac.ac_flags
    if not flags & EXT4_MB_HINT_DATA or flags & (EXT4_MB_HINT_GOAL_ONLY | EXT4_MB_HINT_NOPREALLOC):
        return
    if flags & EXT4_MB_HINT_GROUP_ALLOC:
        ext4_mb_normalize_group_request(ac)
        return
    sb = ac.ac_sb
    sbi = EXT4_SB(sb)
    bits = sb.s_blocksize_bits
    o_ex = ac.ac_o_ex
    size = max(o_ex.fe_logical + o_ex.fe_len << bits, ac.ac_inode.i_size)
    largest = 2 << bits
    start_off = 0
    for step in (16, 32, 64, 128, 256, 512, 1024):
        if size <= step * 1024:
            size = step * 1024
            break
    else:
        if size <= 4 << 20 or largest <= 2 * 1024:
            start_off, size = o_ex.fe_logical >> 21 - bits << 21, 2 << 20
        elif size <= 8 << 20 or largest <= 4 * 1024:
            start_off, size = o_ex.fe_logical >> 22 - bits << 22, 4 << 20
        elif o_ex.fe_len <= 8 << 20 >> bits or largest <= 8 * 1024:
            start_off, size = o_ex.fe_logical >> 23 - bits << 23, 8 << 20
        else:
            start_off, size = o_ex.fe_logical << bits, o_ex.fe_len << bits
    size >>= bits
    start = start_off >> bits
    size = min(size, sbi.s_blocks_per_group)
    if ar.pleft and start <= ar.lleft:
        size -= ar.lleft + 1 - start
        start = ar.lleft + 1
    if ar.pright and start + size - 1 >= ar.lright:
        size -= start + size - ar.lright
    end = start + size
    for pa in EXT4_I(ac.ac_inode).i_prealloc_list:
        if pa.pa_deleted:
            continue
        pa_end = pa.pa_lstart + pa.pa_len
        if pa.pa_lstart >= end or pa_end <= start:
            continue
        if pa_end <= o_ex.fe_logical:
            start = max(start, pa_end)
        elif pa.pa_lstart > o_ex.fe_logical:
            end = min(end, pa.pa_lstart)
    size = end - start
    if not start <= o_ex.fe_logical < start + size:
        return                                       # a hint that does not hold what is asked for: as it is
    ac.ac_g_ex.fe_logical = start
    ac.ac_g_ex.fe_len = size
    if ar.pright and ar.lright == start + size and ar.pright >= size:
        ac.ac_g_ex.fe_group, ac.ac_g_ex.fe_start = ext4_get_group_no_and_offset(sb, ar.pright - size)
        ac.ac_flags |= EXT4_MB_HINT_TRY_GOAL
    if ar.pleft and ar.lleft + 1 == start:
        ac.ac_g_ex.fe_group, ac.ac_g_ex.fe_start = ext4_get_group_no_and_offset(sb, ar.pleft + 1)
        ac.ac_flags |= EXT4_MB_HINT_TRY_GOAL
    if ac.ac_g_ex.fe_group >= sbi.s_groups_count:
        ac.ac_g_ex.fe_group, ac.ac_g_ex.fe_start = o_ex.fe_group, o_ex.fe_start


# ---- preallocation -----------------------------------------------------------------------------------------
def ext4_mb_use_inode_pa(ac: Ext4AllocationContext, pa: Ext4PreallocSpace) -> None:
    start = pa.pa_pstart + ac.ac_o_ex.fe_logical - pa.pa_lstart
    end = min(pa.pa_pstart + pa.pa_len, start + ac.ac_o_ex.fe_len)
    length = end - start
    group, offset = ext4_get_group_no_and_offset(ac.ac_sb, start)
    ac.ac_b_ex = Ext4FreeExtent(ac.ac_o_ex.fe_logical, group, offset, length)
    ac.ac_status = AC_STATUS_FOUND
    ac.ac_pa = pa
    assert pa.pa_free >= length
    pa.pa_free -= length


def ext4_mb_use_group_pa(ac: Ext4AllocationContext, pa: Ext4PreallocSpace) -> None:
    group, offset = ext4_get_group_no_and_offset(ac.ac_sb, pa.pa_pstart)
    ac.ac_b_ex = Ext4FreeExtent(ac.ac_o_ex.fe_logical, group, offset, ac.ac_o_ex.fe_len)
    ac.ac_status = AC_STATUS_FOUND
    ac.ac_pa = pa


def ext4_mb_use_preallocated(ac: Ext4AllocationContext) -> bool:
    """True if blocks were kept back for this request."""
    if not ac.ac_flags & EXT4_MB_HINT_DATA:
        return False
    logical = ac.ac_o_ex.fe_logical
    for pa in EXT4_I(ac.ac_inode).i_prealloc_list:
        if pa.pa_lstart <= logical < pa.pa_lstart + pa.pa_len and not pa.pa_deleted and pa.pa_free:
            pa.pa_count += 1
            ext4_mb_use_inode_pa(ac, pa)
            return True
    lg = ac.ac_lg
    if not ac.ac_flags & EXT4_MB_HINT_GROUP_ALLOC or lg is None:
        return False
    order = min(ac.ac_o_ex.fe_len.bit_length() - 1, PREALLOC_TB_SIZE - 1)
    goal = ext4_grp_offs_to_block(ac.ac_sb, ac.ac_g_ex)
    best: Ext4PreallocSpace | None = None
    for bucket in lg.lg_prealloc_list[order:]:
        for pa in bucket:
            if not pa.pa_deleted and pa.pa_free >= ac.ac_o_ex.fe_len:
                if best is None or abs(goal - pa.pa_pstart) <= abs(goal - best.pa_pstart):
                    best = pa
    if best is None:
        return False
    best.pa_count += 1
    ext4_mb_use_group_pa(ac, best)
    return True


def ext4_mb_new_preallocation(ac: Ext4AllocationContext) -> None:
    """More was found than asked for: the rest is kept."""
    if ac.ac_flags & EXT4_MB_HINT_GROUP_ALLOC:
        ext4_mb_new_group_pa(ac)
    else:
        ext4_mb_new_inode_pa(ac)


def ext4_mb_new_inode_pa(ac: Ext4AllocationContext) -> None:
    sb = ac.ac_sb
    best, original, goal = ac.ac_b_ex, ac.ac_o_ex, ac.ac_g_ex
    if best.fe_len < goal.fe_len:
        # Less than wanted: shift the window so that it still covers the request.
        winl = original.fe_logical - goal.fe_logical
        win = min(winl, best.fe_len - original.fe_len)
        offs = original.fe_logical % best.fe_len
        if offs and offs < win:
            win = offs
        best.fe_logical = original.fe_logical - win
    ac.ac_f_ex = best.copy()
    pa = Ext4PreallocSpace(ext4_grp_offs_to_block(sb, best), best.fe_logical, best.fe_len, best.fe_len, MB_INODE_PA,
                           ac.ac_inode, 2)
    probe = sb.kernel.tp.ext4_mb_new_inode_pa
    if probe is not None:
        probe(ac, pa)
    group = best.fe_group
    ext4_mb_use_inode_pa(ac, pa)
    EXT4_SB(sb).s_mb_preallocated += pa.pa_free
    EXT4_SB(sb).s_group_info[group].bb_prealloc_list.append(pa)
    EXT4_I(ac.ac_inode).i_prealloc_list.insert(0, pa)


def ext4_mb_new_group_pa(ac: Ext4AllocationContext) -> None:
    sb = ac.ac_sb
    best = ac.ac_b_ex
    ac.ac_f_ex = best.copy()
    start = ext4_grp_offs_to_block(sb, best)
    pa = Ext4PreallocSpace(start, start, best.fe_len, best.fe_len, MB_GROUP_PA, None, 2)
    probe = sb.kernel.tp.ext4_mb_new_group_pa
    if probe is not None:
        probe(ac, pa)
    group = best.fe_group
    ext4_mb_use_group_pa(ac, pa)
    EXT4_SB(sb).s_mb_preallocated += pa.pa_free
    EXT4_SB(sb).s_group_info[group].bb_prealloc_list.append(pa)


@notrace
def _unlist(sb: SuperBlock, pa: Ext4PreallocSpace) -> Ext4GroupInfo:
    """Takes a preallocation out of every list that has it."""
    pa.pa_deleted = True
    grp = EXT4_SB(sb).s_group_info[ext4_get_group_no_and_offset(sb, pa.pa_pstart - (not pa.pa_free and pa.pa_type))[0]]
    if pa in grp.bb_prealloc_list:
        grp.bb_prealloc_list.remove(pa)
    if pa.pa_type == MB_INODE_PA:
        assert pa.pa_inode is not None
        inode_list = EXT4_I(pa.pa_inode).i_prealloc_list
        if pa in inode_list:
            inode_list.remove(pa)
    elif pa.pa_lg is not None:
        pa.pa_lg.remove(pa)
        pa.pa_lg = None
    return grp


def ext4_mb_put_pa(sb: SuperBlock, pa: Ext4PreallocSpace) -> None:
    """Drops the use of a preallocation; an empty one goes."""
    pa.pa_count -= 1
    if pa.pa_count > 1 or pa.pa_free or pa.pa_deleted:
        return
    _unlist(sb, pa)


def ext4_mb_add_n_trim(ac: Ext4AllocationContext) -> None:
    """Files a locality group's preallocation by what is left of it; too many of one size are given back."""
    lg, pa = ac.ac_lg, ac.ac_pa
    assert lg is not None and pa is not None
    order = min(pa.pa_free.bit_length() - 1, PREALLOC_TB_SIZE - 1)
    bucket = lg.lg_prealloc_list[order]
    if pa.pa_lg is not None:
        pa.pa_lg.remove(pa)
    bucket.append(pa)
    bucket.sort(key=lambda each: each.pa_free)
    pa.pa_lg = bucket
    if len(bucket) > 8:
        ext4_mb_discard_lg_preallocations(ac.ac_sb, lg, order, len(bucket))


@may_sleep
def ext4_mb_discard_lg_preallocations(sb: SuperBlock, lg: Ext4LocalityGroup, order: int, total_entries: int) -> None:
    for pa in lg.lg_prealloc_list[order][:]:
        if total_entries <= 5:
            break
        if pa.pa_count > 1 or pa.pa_deleted:
            continue
        grp = _unlist(sb, pa)
        ext4_mb_release_group_pa(sb, grp, pa)
        total_entries -= 1


@may_sleep
def ext4_mb_release_context(ac: Ext4AllocationContext) -> None:
    pa = ac.ac_pa
    if pa is not None:
        if pa.pa_type == MB_GROUP_PA and ac.ac_b_ex.fe_len:
            length = ac.ac_b_ex.fe_len
            pa.pa_pstart += length
            pa.pa_lstart += length
            pa.pa_free -= length
            pa.pa_len -= length
            if pa.pa_free:
                ext4_mb_add_n_trim(ac)
        ext4_mb_put_pa(ac.ac_sb, pa)
    if ac.ac_lg is not None:
        mutex_unlock(ac.ac_lg.lg_mutex)
    ext4_mb_collect_stats(ac)


def ext4_mb_collect_stats(ac: Ext4AllocationContext) -> None:
    """The end of a request: statistics (/sys/fs/ext4/*/mb_stats switches them on) and its event."""
    sbi = EXT4_SB(ac.ac_sb)
    best, goal = ac.ac_b_ex, ac.ac_g_ex
    if sbi.s_mb_stats and goal.fe_len > 1:
        sbi.s_bal_reqs += 1
        sbi.s_bal_allocated += best.fe_len
        sbi.s_bal_success += best.fe_len >= ac.ac_o_ex.fe_len
        sbi.s_bal_ex_scanned += ac.ac_found
        sbi.s_bal_goals += goal.fe_start == best.fe_start and goal.fe_group == best.fe_group
        sbi.s_bal_breaks += ac.ac_found > sbi.s_mb_max_to_scan
    tp = ac.ac_sb.kernel.tp
    probe = tp.ext4_mballoc_alloc if ac.ac_op == EXT4_MB_HISTORY_ALLOC else tp.ext4_mballoc_prealloc
    if probe is not None:
        probe(ac)


@may_sleep
def ext4_mb_release_inode_pa(sb: SuperBlock, grp: Ext4GroupInfo, bitmap_bh: BufferHead, pa: Ext4PreallocSpace) -> int:
    """Gives back what was not used. Answers how many blocks."""
    group, first = ext4_get_group_no_and_offset(sb, pa.pa_pstart)
    used = int.from_bytes(bitmap_bh.b_data, "little") >> first
    freed = 0
    tp = sb.kernel.tp
    for start, length in zip(*free_runs(used, pa.pa_len)):
        probe = tp.ext4_mballoc_discard
        if probe is not None:
            probe(sb, None, group, first + start, length)
        probe = tp.ext4_mb_release_inode_pa
        if probe is not None:
            probe(pa, pa.pa_pstart + start, length)
        if not grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
            mb_free_blocks(pa.pa_inode, sb, grp, first + start, length)
        freed += length
    if freed != pa.pa_free:
        ext4_error(sb, f"pa {pa.pa_lstart}: logic {pa.pa_lstart}, phys. {pa.pa_pstart}, len {pa.pa_len}, "
                   f"free {pa.pa_free}, pa_free {freed}")
    EXT4_SB(sb).s_mb_discarded += freed
    return freed


@may_sleep
def ext4_mb_release_group_pa(sb: SuperBlock, grp: Ext4GroupInfo, pa: Ext4PreallocSpace) -> int:
    tp = sb.kernel.tp
    probe = tp.ext4_mb_release_group_pa
    if probe is not None:
        probe(sb, pa)
    group, first = ext4_get_group_no_and_offset(sb, pa.pa_pstart)
    if pa.pa_len and not grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
        mb_free_blocks(None, sb, grp, first, pa.pa_len)
    EXT4_SB(sb).s_mb_discarded += pa.pa_len
    probe = tp.ext4_mballoc_discard
    if probe is not None:
        probe(sb, None, group, first, pa.pa_len)
    return pa.pa_len


@may_sleep
def ext4_discard_preallocations(inode: Inode) -> None:
    """A file is closed or truncated: its preallocated blocks become free again."""
    ei = EXT4_I(inode)
    if not ei.i_prealloc_list:
        return
    sb = inode.i_sb
    probe = sb.kernel.tp.ext4_discard_preallocations
    if probe is not None:
        probe(inode)
    pas = ei.i_prealloc_list[:]
    for pa in pas:
        if pa.pa_deleted:
            continue
        group, _ = ext4_get_group_no_and_offset(sb, pa.pa_pstart)
        try:
            grp = ext4_mb_load_buddy(sb, group)
            bitmap_bh = ext4_read_block_bitmap(sb, group)
        except KernelError as e:
            ext4_error(sb, f"Error {-e.errno} loading buddy information for {group}")
            _unlist(sb, pa)
            continue
        if not pa.pa_deleted:
            _unlist(sb, pa)
            ext4_mb_release_inode_pa(sb, grp, bitmap_bh, pa)
        brelse(bitmap_bh)


@may_sleep
def ext4_mb_discard_group_preallocations(sb: SuperBlock, group: int, needed: int) -> int:
    """Gives back what nobody uses right now. Answers how many blocks."""
    grp = EXT4_SB(sb).s_group_info[group]
    if not grp.bb_prealloc_list:
        return 0
    try:
        bitmap_bh = ext4_read_block_bitmap(sb, group)
        ext4_mb_load_buddy(sb, group)
    except KernelError as e:
        ext4_error(sb, f"Error {-e.errno} reading block bitmap for {group}")
        return 0
    free = 0
    for pa in grp.bb_prealloc_list[:]:
        if pa.pa_count > 1 or pa.pa_deleted:
            continue
        _unlist(sb, pa)
        if pa.pa_type == MB_GROUP_PA:
            free += ext4_mb_release_group_pa(sb, grp, pa)
        else:
            free += ext4_mb_release_inode_pa(sb, grp, bitmap_bh, pa)
        if free >= needed:
            break
    brelse(bitmap_bh)
    return free


@may_sleep
def ext4_mb_discard_preallocations(sb: SuperBlock, needed: int) -> int:
    probe = sb.kernel.tp.ext4_mb_discard_preallocations
    if probe is not None:
        probe(sb, needed)
    freed = 0
    for group in range(EXT4_SB(sb).s_groups_count):
        if needed <= 0:
            break
        got = ext4_mb_discard_group_preallocations(sb, group, needed)
        freed += got
        needed -= got
    return freed


# ---- allocating --------------------------------------------------------------------------------------------
@may_sleep
def ext4_mb_mark_diskspace_used(ac: Ext4AllocationContext, handle: Handle, reserv_clstrs: int) -> None:
    """Sets the bits on disk and lowers the counts. Raises EIO, EFSCORRUPTED."""
    sb = ac.ac_sb
    sbi = EXT4_SB(sb)
    best = ac.ac_b_ex
    group, length = best.fe_group, best.fe_len
    bitmap_bh = ext4_read_block_bitmap(sb, group)
    try:
        ext4_journal_get_write_access(handle, bitmap_bh)
        gdp, gdp_bh = ext4_get_group_desc(sb, group)
        ext4_journal_get_write_access(handle, gdp_bh)
        block = ext4_grp_offs_to_block(sb, best)
        if not ext4_data_block_valid(sbi, block, length):
            ext4_error(sb, f"Allocating blocks {block}-{block + length} which overlap fs metadata")
            raise KernelError(EFSCORRUPTED)
        if gdp.bg_flags & EXT4_BG_BLOCK_UNINIT and ext4_has_group_desc_csum(sb):
            gdp.bg_flags &= ~EXT4_BG_BLOCK_UNINIT
            size = ext4_num_clusters_in_group(sb, group)
            used = int.from_bytes(bitmap_bh.b_data, "little") & (1 << size) - 1
            ext4_free_group_clusters_set(sb, gdp, size - used.bit_count())
        set_bits(bitmap_bh.b_data, best.fe_start, length)
        ext4_free_group_clusters_set(sb, gdp, ext4_free_group_clusters(sb, gdp) - length)
        ext4_block_bitmap_csum_set(sb, group, gdp, bitmap_bh)
        ext4_group_desc_csum_set(sb, group, gdp)
        sbi.s_freeclusters_counter -= length
        if not ac.ac_flags & EXT4_MB_DELALLOC_RESERVED:
            sbi.s_dirtyclusters_counter -= reserv_clstrs
        if sbi.s_log_groups_per_flex:
            sbi.s_flex_groups[group >> sbi.s_log_groups_per_flex][0] -= length
        ext4_handle_dirty_metadata(handle, None, bitmap_bh)
        ext4_handle_dirty_metadata(handle, None, gdp_bh)
    finally:
        brelse(bitmap_bh)


@may_sleep
def ext4_discard_allocated_blocks(ac: Ext4AllocationContext) -> None:
    """Undoes an allocation that could not be recorded."""
    pa = ac.ac_pa
    if pa is None:
        if ac.ac_f_ex.fe_len:
            try:
                grp = ext4_mb_load_buddy(ac.ac_sb, ac.ac_f_ex.fe_group)
            except KernelError:
                return
            mb_free_blocks(ac.ac_inode, ac.ac_sb, grp, ac.ac_f_ex.fe_start, ac.ac_f_ex.fe_len)
    elif pa.pa_type == MB_INODE_PA:
        pa.pa_free += ac.ac_b_ex.fe_len


@may_sleep
def ext4_mb_new_blocks(handle: Handle, ar: Ext4AllocationRequest) -> int:
    """Allocates 1..ar.len blocks; ar.len says how many. Answers the first one. Raises ENOSPC, EIO, EFSCORRUPTED."""
    inode = ar.inode
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    probe = sb.kernel.tp.ext4_request_blocks
    if probe is not None:
        probe(ar)
    reserv_clstrs = 0
    if not ar.flags & EXT4_MB_DELALLOC_RESERVED:
        while ar.len and not ext4_claim_free_clusters(sbi, ar.len, ar.flags):
            cond_resched()
            ar.len >>= 1
        if not ar.len:
            raise KernelError(ENOSPC)
        reserv_clstrs = ar.len
    nothing = Ext4FreeExtent()
    ac = Ext4AllocationContext(inode, sb, nothing, nothing, nothing, Ext4FreeExtent())
    ext4_mb_initialize_context(ac, ar)
    block = 0
    try:
        if not ext4_mb_use_preallocated(ac):
            ac.ac_op = EXT4_MB_HISTORY_ALLOC
            ext4_mb_normalize_request(ac, ar)
            while True:
                ext4_mb_regular_allocator(ac)
                if ac.ac_status == AC_STATUS_FOUND:
                    if ac.ac_o_ex.fe_len < ac.ac_b_ex.fe_len:
                        ext4_mb_new_preallocation(ac)
                    break
                if not ext4_mb_discard_preallocations(sb, ac.ac_o_ex.fe_len):
                    raise KernelError(ENOSPC)
                ac.ac_b_ex = Ext4FreeExtent(ar.logical)
                ac.ac_found = 0
        try:
            ext4_mb_mark_diskspace_used(ac, handle, reserv_clstrs)
        except KernelError:
            ext4_discard_allocated_blocks(ac)
            raise
        block = ext4_grp_offs_to_block(sb, ac.ac_b_ex)
        ar.len = ac.ac_b_ex.fe_len
        if not ar.flags & EXT4_MB_DELALLOC_RESERVED:
            # dquot_alloc_block()
            inode.i_blocks = (inode.i_blocks + (ar.len << inode.i_blkbits - 9)) & 0xFFFF_FFFF_FFFF_FFFF
            mark_inode_dirty_sync(inode)
    except KernelError:
        ac.ac_b_ex.fe_len = 0
        ar.len = 0
        if not ar.flags & EXT4_MB_DELALLOC_RESERVED:
            sbi.s_dirtyclusters_counter -= reserv_clstrs
        raise
    finally:
        ext4_mb_release_context(ac)
    probe = sb.kernel.tp.ext4_allocate_blocks
    if probe is not None:
        probe(ar, block)
    return block


@may_sleep
def ext4_new_meta_blocks(handle: Handle, inode: Inode, goal: int, flags: int, count: int = 1) -> tuple[int, int]:
    """(first block, how many) for metadata: index blocks, attributes. Raises ENOSPC, EIO."""
    ar = Ext4AllocationRequest(inode, count, 0, goal, flags=flags)
    block = ext4_mb_new_blocks(handle, ar)
    if flags & EXT4_MB_DELALLOC_RESERVED:
        # dquot_alloc_block_nofail()
        inode.i_blocks = (inode.i_blocks + (ar.len << inode.i_blkbits - 9)) & 0xFFFF_FFFF_FFFF_FFFF
        mark_inode_dirty_sync(inode)
    return block, ar.len


# ---- freeing -----------------------------------------------------------------------------------------------
def ext4_mb_free_metadata(sb: SuperBlock, grp: Ext4GroupInfo, entry: Ext4FreeData) -> None:
    """The blocks become free when the transaction is on disk: until then nobody may write over them."""
    grp.bb_freed.append(entry)
    EXT4_SB(sb).s_freed_data_list.append(entry)


@may_sleep
def ext4_process_freed_data(sb: SuperBlock, commit_tid: int) -> None:
    """A transaction is on disk: what it freed can be had again. Context: jbd2 thread."""
    sbi = EXT4_SB(sb)
    done = [entry for entry in sbi.s_freed_data_list if entry.efd_tid == commit_tid]
    if not done:
        return
    sbi.s_freed_data_list = [entry for entry in sbi.s_freed_data_list if entry.efd_tid != commit_tid]
    if test_opt(sbi, EXT4_MOUNT_DISCARD):
        for entry in done:
            try:
                ext4_issue_discard(sb, entry.efd_group, entry.efd_start_cluster, entry.efd_count)
            except KernelError as e:
                if e.errno == EOPNOTSUPP:
                    sbi.s_mount_opt &= ~EXT4_MOUNT_DISCARD
                    ext4_msg(sb, KERN_WARNING,
                             f"discard request in group:{entry.efd_group} block:{entry.efd_start_cluster} "
                             f"count:{entry.efd_count} failed with {-e.errno}")
    for entry in done:
        ext4_free_data_in_buddy(sb, entry)


def ext4_free_data_in_buddy(sb: SuperBlock, entry: Ext4FreeData) -> None:
    grp = EXT4_SB(sb).s_group_info[entry.efd_group]
    grp.bb_freed.remove(entry)
    if not grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
        mb_free_blocks(None, sb, grp, entry.efd_start_cluster, entry.efd_count)
    grp.bb_state &= ~EXT4_GROUP_INFO_WAS_TRIMMED


@may_sleep
def ext4_issue_discard(sb: SuperBlock, group: int, start: int, count: int) -> None:
    discard_block = ext4_group_first_block_no(sb, group) + start
    probe = sb.kernel.tp.ext4_discard_blocks
    if probe is not None:
        probe(sb, discard_block, count)
    sb_issue_discard(sb, discard_block, count)


@may_sleep
def ext4_free_blocks(handle: Handle, inode: Inode, bh: BufferHead | None, block: int, count: int, flags: int) -> None:
    """Frees blocks of a file. Never raises: what goes wrong is an ext4_error()."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    if bh is not None:
        block = block or bh.b_blocknr
    if not flags & EXT4_FREE_BLOCKS_VALIDATED and not ext4_data_block_valid(sbi, block, count):
        ext4_error(sb, f"Freeing blocks not in datazone - block = {block}, count = {count}")
        return
    probe = sb.kernel.tp.ext4_free_blocks
    if probe is not None:
        probe(inode, block, count, flags)
    if flags & EXT4_FREE_BLOCKS_FORGET:
        is_metadata = bool(flags & EXT4_FREE_BLOCKS_METADATA)
        for i in range(count):
            cond_resched()
            each = bh if bh is not None and count == 1 else sb_find_get_block(sb, block + i)
            ext4_forget(handle, is_metadata, inode, each, block + i)
    try:
        while count > 0:
            group, bit = ext4_get_group_no_and_offset(sb, block)
            here = min(count, sbi.s_blocks_per_group - bit)
            _free_in_group(handle, inode, group, bit, block, here, flags)
            block += here
            count -= here
    except KernelError as e:
        ext4_std_error(sb, e.errno)


@notrace
@may_sleep
def _free_in_group(handle: Handle, inode: Inode, group: int, bit: int, block: int, count: int, flags: int) -> None:
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    if sbi.s_group_info[group].bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        return
    bitmap_bh = ext4_read_block_bitmap(sb, group)
    try:
        gdp, gd_bh = ext4_get_group_desc(sb, group)
        if not ext4_data_block_valid(sbi, block, count):
            ext4_error(sb, f"Freeing blocks in system zone - Block = {block}, count = {count}")
            return
        ext4_journal_get_write_access(handle, bitmap_bh)
        ext4_journal_get_write_access(handle, gd_bh)
        probe = sb.kernel.tp.ext4_mballoc_free
        if probe is not None:
            probe(sb, inode, group, bit, count)
        grp = ext4_mb_load_buddy(sb, group)
        clear_bits(bitmap_bh.b_data, bit, count)
        if ext4_handle_valid(handle) and (
                flags & EXT4_FREE_BLOCKS_METADATA or ext4_inode_journal_mode(inode) != EXT4_WRITEBACK_DATA_MODE):
            ext4_mb_free_metadata(sb, grp, Ext4FreeData(group, bit, count, handle.h_transaction.t_tid))
        else:
            if test_opt(sbi, EXT4_MOUNT_DISCARD):
                try:
                    ext4_issue_discard(sb, group, bit, count)
                except KernelError as e:
                    if e.errno != EOPNOTSUPP:
                        ext4_msg(sb, KERN_WARNING,
                                 f"discard request in group:{group} block:{bit} count:{count} failed with {-e.errno}")
            grp.bb_state &= ~EXT4_GROUP_INFO_WAS_TRIMMED
            mb_free_blocks(inode, sb, grp, bit, count)
        ext4_free_group_clusters_set(sb, gdp, ext4_free_group_clusters(sb, gdp) + count)
        ext4_block_bitmap_csum_set(sb, group, gdp, bitmap_bh)
        ext4_group_desc_csum_set(sb, group, gdp)
        if sbi.s_log_groups_per_flex:
            sbi.s_flex_groups[group >> sbi.s_log_groups_per_flex][0] += count
        sbi.s_freeclusters_counter += count
        # dquot_free_block(); a damaged inode may own more than it counts: the u64 wraps
        inode.i_blocks = (inode.i_blocks - (count << inode.i_blkbits - 9)) & 0xFFFF_FFFF_FFFF_FFFF
        ext4_handle_dirty_metadata(handle, None, bitmap_bh)
        ext4_handle_dirty_metadata(handle, None, gd_bh)
    finally:
        brelse(bitmap_bh)


# ---- FITRIM ------------------------------------------------------------------------------------------------
@may_sleep
def ext4_trim_extent(sb: SuperBlock, start: int, count: int, grp: Ext4GroupInfo) -> None:
    """Discards a free run; meanwhile it is taken, so that nobody writes there."""
    probe = sb.kernel.tp.ext4_trim_extent
    if probe is not None:
        probe(sb, grp.bb_group, start, count)
    ex = Ext4FreeExtent(0, grp.bb_group, start, count)
    mb_mark_used(sb, grp, ex)
    try:
        ext4_issue_discard(sb, grp.bb_group, start, count)
    finally:
        mb_free_blocks(None, sb, grp, start, count)


@may_sleep
def ext4_trim_all_free(sb: SuperBlock, group: int, start: int, last: int, minblocks: int) -> int:
    probe = sb.kernel.tp.ext4_trim_all_free
    if probe is not None:
        probe(sb, group, start, last)
    grp = ext4_mb_load_buddy(sb, group)
    if grp.bb_state & EXT4_GROUP_INFO_WAS_TRIMMED and minblocks >= grp.bb_last_trim_minblks:
        return 0
    count = 0
    for first, length in zip(grp.run_start[:], grp.run_len[:]):
        begin, end = max(first, start), min(first + length, last + 1)
        if end - begin >= minblocks and end > begin:
            ext4_trim_extent(sb, begin, end - begin, grp)
            count += end - begin
        if fatal_signal_pending(current()):
            break
        cond_resched()
    grp.bb_state |= EXT4_GROUP_INFO_WAS_TRIMMED
    grp.bb_last_trim_minblks = minblocks
    return count


@may_sleep
def ext4_trim_fs(sb: SuperBlock, start: int, length: int, minlen: int) -> int:
    """FITRIM: discards the free runs of at least minlen bytes in [start, start + length); answers bytes.

    Raises EINVAL, EIO, EOPNOTSUPP.
    """
    sbi = EXT4_SB(sb)
    bits = sb.s_blocksize_bits
    first = start >> bits
    end = first + (length >> bits) - 1
    minblocks = minlen >> bits
    first_data_blk = sbi.s_es.s_first_data_block
    max_blks = ext4_blocks_count(sbi.s_es)
    if minblocks > sbi.s_clusters_per_group or first >= max_blks or length < sb.s_blocksize:
        raise KernelError(EINVAL)
    end = min(end, max_blks - 1)
    if end <= first_data_blk:
        return 0
    first = max(first, first_data_blk)
    first_group, first_cluster = ext4_get_group_no_and_offset(sb, first)
    last_group, last_cluster = ext4_get_group_no_and_offset(sb, end)
    trimmed = 0
    for group in range(first_group, last_group + 1):
        grp = ext4_mb_load_buddy(sb, group)
        top = last_cluster if group == last_group else ext4_num_clusters_in_group(sb, group) - 1
        if grp.bb_free >= minblocks:
            trimmed += ext4_trim_all_free(sb, group, first_cluster, top, max(minblocks, 1))
        first_cluster = 0
    return trimmed << bits
