"""/sys/fs/ext4 and /proc/fs/ext4.

Linux: fs/ext4/sysfs.c, ext4_seq_options_show() of super.c, ext4_mb_seq_groups_* of mballoc.c (5.3). Same: names,
    formats, limits of what is written.  Gaps: trigger_fs_error, extent_max_zeroout_kb has no effect.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.balloc import ext4_get_group_desc
from glasskernel.fs.ext4.extents_shrinker import nr_reclaimable
from glasskernel.fs.ext4.mballoc_buddy import ext4_mb_load_buddy
from glasskernel.fs.ext4.super_options import _ext4_show_options
from glasskernel.fs.ext4.types import (
    EXT4_GROUP_INFO_NEED_INIT,
    EXT4_SB,
    ext4_blocks_count,
)
from glasskernel.fs.proc.generic import proc_create_single_data, proc_mkdir, remove_proc_entry
from glasskernel.fs.seq_file import seq_puts
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_add,
    kobject_create_and_add,
    kobject_del,
    sysfs_create_group,
)
from glasskernel.fs.types import SB_RDONLY
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.ext4.types import Ext4SbInfo
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.fs.types import SuperBlock


@notrace
def _sbi(kobj: Kobject) -> Ext4SbInfo:
    return kobj.data  # type: ignore[no-any-return]


@notrace
def _field(name: str, maximum: int = (1 << 32) - 1) -> Attribute:
    """A number of Ext4SbInfo that root may change."""

    @notrace
    def show(kobj: Kobject) -> bytes:
        return b"%d\n" % getattr(_sbi(kobj), name)

    @notrace
    def store(kobj: Kobject, text: bytes) -> None:
        try:
            value = int(text.strip(), 0)
        except ValueError:
            raise KernelError(EINVAL) from None
        if not 0 <= value <= maximum:
            raise KernelError(EINVAL)
        setattr(_sbi(kobj), name, value)

    return Attribute(name[2:].encode(), show, store, 0o644)


@notrace
def _shown(name: bytes, show: Callable[[Ext4SbInfo], int]) -> Attribute:
    return Attribute(name, notrace(lambda kobj: b"%d\n" % show(_sbi(kobj))))


@notrace
def inode_readahead_blks_store(kobj: Kobject, text: bytes) -> None:
    try:
        value = int(text.strip(), 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    if value and (value & value - 1 or value > 0x40000000):
        raise KernelError(EINVAL)
    _sbi(kobj).s_inode_readahead_blks = value


@notrace
def reserved_clusters_store(kobj: Kobject, text: bytes) -> None:
    sbi = _sbi(kobj)
    try:
        value = int(text.strip(), 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    if not 0 <= value < ext4_blocks_count(sbi.s_es):
        raise KernelError(EINVAL)
    sbi.s_resv_clusters = value


EXT4_ATTRS = (
    _shown(b"delayed_allocation_blocks", lambda sbi: sbi.s_dirtyclusters_counter),
    _shown(b"session_write_kbytes", lambda sbi: _written(sbi) - sbi.s_sectors_written_start >> 1),
    _shown(
        b"lifetime_write_kbytes",
        lambda sbi: sbi.s_es.s_kbytes_written + (_written(sbi) - sbi.s_sectors_written_start >> 1),
    ),
    Attribute(
        b"reserved_clusters", notrace(lambda kobj: b"%d\n" % _sbi(kobj).s_resv_clusters), reserved_clusters_store, 0o644
    ),
    Attribute(
        b"inode_readahead_blks",
        notrace(lambda kobj: b"%d\n" % _sbi(kobj).s_inode_readahead_blks),
        inode_readahead_blks_store,
        0o644,
    ),
    _field("s_inode_goal"),
    _field("s_mb_stats"),
    _field("s_mb_max_to_scan"),
    _field("s_mb_min_to_scan"),
    _field("s_mb_order2_reqs"),
    _field("s_mb_stream_request"),
    _field("s_mb_group_prealloc"),
    _field("s_extent_max_zeroout_kb"),
    _shown(b"warning_count", lambda sbi: sbi.s_warning_count),
    _shown(b"msg_count", lambda sbi: sbi.s_msg_count),
    _shown(b"errors_count", lambda sbi: sbi.s_es.s_error_count),
    _shown(b"first_error_time", lambda sbi: sbi.s_es.s_first_error_time),
    _shown(b"last_error_time", lambda sbi: sbi.s_es.s_last_error_time),
)
FEATURES = (b"lazy_itable_init", b"batched_discard", b"meta_bg_resize", b"metadata_csum_seed")


@notrace
def _written(sbi: Ext4SbInfo) -> int:
    """Sectors written to the device since boot."""
    part = sbi.s_sb.s_bdev.bd_part
    sectors = getattr(part, "sectors", None)
    return sectors[1] if sectors else 0


# ---- /proc/fs/ext4 -----------------------------------------------------------------------------------------
def ext4_seq_options_show(m: SeqFile, sb: SuperBlock) -> None:
    seq_puts(m, b"ro\n" if sb.s_flags & SB_RDONLY else b"rw\n")
    seq_puts(m, _ext4_show_options(sb, True))


def ext4_mb_seq_groups_show(m: SeqFile, sb: SuperBlock) -> None:
    """Free blocks, runs and buddies of each group."""
    sbi = EXT4_SB(sb)
    orders = sb.s_blocksize_bits + 2
    seq_puts(m, b"#group: free  frags first [" + b"".join(b" 2^%-5d" % i for i in range(14)) + b"]\n")
    for group, grp in enumerate(sbi.s_group_info):
        if grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
            ext4_get_group_desc(sb, group)
            try:
                ext4_mb_load_buddy(sb, group)
            except KernelError as e:
                seq_puts(m, b"#%-5d: I/O error %d\n" % (group, -e.errno))
                continue
        seq_puts(m, b"#%-5d: %-5d %-5d %-5d [" % (group, grp.bb_free, grp.bb_fragments, grp.bb_first_free))
        for i in range(14):
            seq_puts(m, b" %-5d" % (grp.bb_counters[i] if i < orders else 0))
        seq_puts(m, b" ]\n")


def ext4_seq_es_shrinker_info_show(m: SeqFile, sb: SuperBlock) -> None:
    sbi = EXT4_SB(sb)
    inodes = [inode.i_private for inode in sb.s_inode_list if inode.i_private is not None]
    seq_puts(m, b"stats:\n  %d objects\n" % sum(len(ei.i_es) for ei in inodes))
    seq_puts(m, b"  %d reclaimable objects\n" % nr_reclaimable(sb))
    seq_puts(m, b"  %d/%d cache hits/misses\n" % (sbi.s_es_cache_hits, sbi.s_es_cache_misses))
    seq_puts(m, b"  %d inodes on list\n" % sum(1 for ei in inodes if ei.i_es))


# ---- one file system ---------------------------------------------------------------------------------------
def ext4_register_sysfs(sb: SuperBlock) -> None:
    """Its directories. Context: mount."""
    sbi = EXT4_SB(sb)
    kernel = sb.kernel
    sbi.s_sectors_written_start = _written(sbi)
    top = ext4_root(sb)
    kobj = sbi.s_kobj = Kobject(kernel, sb.s_id, top, data=sbi)
    kobject_add(kobj)
    sysfs_create_group(kobj, EXT4_ATTRS)
    proc = sbi.s_proc = proc_mkdir(kernel, b"fs/ext4/" + sb.s_id)
    for name, show in ((b"options", ext4_seq_options_show), (b"mb_groups", ext4_mb_seq_groups_show),
                       (b"es_shrinker_info", ext4_seq_es_shrinker_info_show)):
        proc_create_single_data(kernel, name, 0o444, proc, _bound(show, sb), None)


@notrace
def _bound(show: Callable[[SeqFile, SuperBlock], None], sb: SuperBlock) -> Callable[[SeqFile, object], None]:
    return notrace(lambda m, _v: show(m, sb))


@notrace
def ext4_root(sb: SuperBlock) -> Kobject:
    """/sys/fs/ext4 and /sys/fs/ext4/features, made at the first mount."""
    kernel = sb.kernel
    state = kernel.ext4
    if state is None:
        state = kernel.ext4 = kobject_create_and_add(b"ext4", kernel.sysfs.fs_kobj)
        features = kobject_create_and_add(b"features", state)
        sysfs_create_group(features, [Attribute(name, notrace(lambda _kobj: b"supported\n")) for name in FEATURES])
    top: Kobject = state
    return top


def ext4_unregister_sysfs(sb: SuperBlock) -> None:
    """Context: umount."""
    sbi = EXT4_SB(sb)
    if sbi.s_proc is not None:
        for name in (b"options", b"mb_groups", b"es_shrinker_info"):
            remove_proc_entry(sb.kernel, name, sbi.s_proc)
        remove_proc_entry(sb.kernel, b"fs/ext4/" + sb.s_id, None)
        sbi.s_proc = None
    if sbi.s_kobj is not None:
        kobject_del(sbi.s_kobj)
        sbi.s_kobj = None
