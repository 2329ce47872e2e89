"""Tracepoints: places in the kernel that tell whoever listens.

Linux: kernel/tracepoint.c, include/linux/tracepoint.h (5.3). Same: several listeners are called in the order they came;
    sys_enter and sys_exit mark every task, so that system calls cost nothing while nobody listens.
Differs: a static key is an attribute of kernel.tp that is None; a call site is
        probe = kernel.tp.sched_switch
        if probe is not None:
            probe(preempt, prev, next_)
Owns: Tracepoints (kernel.tp). What an event is called in tracefs, and its fields, is declared in kernel/trace/events/.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.pid import for_each_thread
from glasskernel.kernel.task import TIF_SYSCALL_TRACEPOINT
from glasskernel.lib.errno import EEXIST, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

Probe = Callable[..., None] | None
_SYSCALL_EVENTS = ("sys_enter", "sys_exit")


class Tracepoints:
    """Every tracepoint of a kernel. The class holds the default: nobody listens."""

    # raw_syscalls
    sys_enter: Probe = None
    sys_exit: Probe = None
    # exceptions, irq_vectors, irq
    page_fault_user: Probe = None
    page_fault_kernel: Probe = None
    local_timer_entry: Probe = None
    local_timer_exit: Probe = None
    irq_work_entry: Probe = None
    irq_work_exit: Probe = None
    call_function_entry: Probe = None
    call_function_exit: Probe = None
    call_function_single_entry: Probe = None
    call_function_single_exit: Probe = None
    reschedule_entry: Probe = None
    reschedule_exit: Probe = None
    irq_handler_entry: Probe = None
    irq_handler_exit: Probe = None
    softirq_entry: Probe = None
    softirq_exit: Probe = None
    softirq_raise: Probe = None
    rcu_utilization: Probe = None
    # task, sched
    task_newtask: Probe = None
    task_rename: Probe = None
    sched_kthread_stop: Probe = None
    sched_kthread_stop_ret: Probe = None
    sched_waking: Probe = None
    sched_wakeup: Probe = None
    sched_wakeup_new: Probe = None
    sched_switch: Probe = None
    sched_migrate_task: Probe = None
    sched_process_free: Probe = None
    sched_process_exit: Probe = None
    sched_process_wait: Probe = None
    sched_process_fork: Probe = None
    sched_process_exec: Probe = None
    sched_pi_setprio: Probe = None
    sched_stat_wait: Probe = None
    sched_stat_sleep: Probe = None
    sched_stat_iowait: Probe = None
    sched_stat_blocked: Probe = None
    sched_stat_runtime: Probe = None
    # signal
    signal_generate: Probe = None
    signal_deliver: Probe = None
    # timer
    timer_init: Probe = None
    timer_start: Probe = None
    timer_expire_entry: Probe = None
    timer_expire_exit: Probe = None
    timer_cancel: Probe = None
    hrtimer_init: Probe = None
    hrtimer_start: Probe = None
    hrtimer_expire_entry: Probe = None
    hrtimer_expire_exit: Probe = None
    hrtimer_cancel: Probe = None
    itimer_state: Probe = None
    itimer_expire: Probe = None
    tick_stop: Probe = None
    # workqueue
    workqueue_queue_work: Probe = None
    workqueue_activate_work: Probe = None
    workqueue_execute_start: Probe = None
    workqueue_execute_end: Probe = None
    # cpuhp
    cpuhp_enter: Probe = None
    cpuhp_exit: Probe = None
    # cgroup
    cgroup_setup_root: Probe = None
    cgroup_destroy_root: Probe = None
    cgroup_remount: Probe = None
    cgroup_mkdir: Probe = None
    cgroup_rmdir: Probe = None
    cgroup_release: Probe = None
    cgroup_rename: Probe = None
    cgroup_attach_task: Probe = None
    cgroup_notify_populated: Probe = None
    # power, printk, vsyscall
    cpu_idle: Probe = None
    console: Probe = None
    emulate_vsyscall: Probe = None
    # kmem, oom, tlb
    kmalloc: Probe = None
    kmalloc_node: Probe = None
    kmem_cache_alloc: Probe = None
    kmem_cache_alloc_node: Probe = None
    kfree: Probe = None
    kmem_cache_free: Probe = None
    mm_page_free: Probe = None
    mm_page_alloc: Probe = None
    oom_score_adj_update: Probe = None
    reclaim_retry_zone: Probe = None
    mark_victim: Probe = None
    # vmscan
    mm_vmscan_kswapd_sleep: Probe = None
    mm_vmscan_kswapd_wake: Probe = None
    mm_vmscan_wakeup_kswapd: Probe = None
    mm_vmscan_direct_reclaim_begin: Probe = None
    mm_vmscan_direct_reclaim_end: Probe = None
    mm_shrink_slab_start: Probe = None
    mm_shrink_slab_end: Probe = None
    mm_vmscan_lru_isolate: Probe = None
    mm_vmscan_writepage: Probe = None
    mm_vmscan_lru_shrink_inactive: Probe = None
    mm_vmscan_lru_shrink_active: Probe = None
    mm_vmscan_inactive_list_is_low: Probe = None
    mm_migrate_pages: Probe = None
    tlb_flush: Probe = None
    # block/buffer, filemap, writeback
    block_touch_buffer: Probe = None
    block_dirty_buffer: Probe = None
    mm_filemap_add_to_page_cache: Probe = None
    mm_filemap_delete_from_page_cache: Probe = None
    filemap_set_wb_err: Probe = None
    file_check_and_advance_wb_err: Probe = None
    writeback_dirty_page: Probe = None
    wait_on_page_writeback: Probe = None
    writeback_mark_inode_dirty: Probe = None
    writeback_dirty_inode_start: Probe = None
    writeback_dirty_inode: Probe = None
    writeback_write_inode_start: Probe = None
    writeback_write_inode: Probe = None
    writeback_queue: Probe = None
    writeback_exec: Probe = None
    writeback_start: Probe = None
    writeback_written: Probe = None
    writeback_wait: Probe = None
    writeback_pages_written: Probe = None
    writeback_wake_background: Probe = None
    writeback_bdi_register: Probe = None
    wbc_writepage: Probe = None
    writeback_queue_io: Probe = None
    global_dirty_state: Probe = None
    bdi_dirty_ratelimit: Probe = None
    balance_dirty_pages: Probe = None
    writeback_sb_inodes_requeue: Probe = None
    writeback_single_inode_start: Probe = None
    writeback_single_inode: Probe = None
    writeback_lazytime: Probe = None
    writeback_lazytime_iput: Probe = None
    writeback_dirty_inode_enqueue: Probe = None
    sb_mark_inode_writeback: Probe = None
    sb_clear_inode_writeback: Probe = None
    # block
    block_rq_requeue: Probe = None
    block_rq_complete: Probe = None
    block_rq_insert: Probe = None
    block_rq_issue: Probe = None
    block_bio_complete: Probe = None
    block_bio_backmerge: Probe = None
    block_bio_frontmerge: Probe = None
    block_bio_queue: Probe = None
    block_getrq: Probe = None
    block_sleeprq: Probe = None
    block_plug: Probe = None
    block_unplug: Probe = None
    block_split: Probe = None
    block_bio_remap: Probe = None
    # napi, net, skb
    napi_poll: Probe = None
    napi_gro_frags_entry: Probe = None
    napi_gro_frags_exit: Probe = None
    napi_gro_receive_entry: Probe = None
    napi_gro_receive_exit: Probe = None
    net_dev_queue: Probe = None
    net_dev_start_xmit: Probe = None
    net_dev_xmit: Probe = None
    net_dev_xmit_timeout: Probe = None
    netif_receive_skb: Probe = None
    netif_receive_skb_entry: Probe = None
    netif_receive_skb_exit: Probe = None
    netif_receive_skb_list_entry: Probe = None
    netif_receive_skb_list_exit: Probe = None
    netif_rx: Probe = None
    netif_rx_entry: Probe = None
    netif_rx_exit: Probe = None
    netif_rx_ni_entry: Probe = None
    netif_rx_ni_exit: Probe = None
    consume_skb: Probe = None
    kfree_skb: Probe = None
    skb_copy_datagram_iovec: Probe = None
    # xdp, bpf_trace
    xdp_exception: Probe = None
    xdp_redirect: Probe = None
    xdp_redirect_err: Probe = None
    xdp_redirect_map: Probe = None
    xdp_redirect_map_err: Probe = None
    # sock
    sock_rcvqueue_full: Probe = None
    sock_exceed_buf_limit: Probe = None
    inet_sock_set_state: Probe = None
    # tcp
    tcp_retransmit_skb: Probe = None
    tcp_send_reset: Probe = None
    tcp_receive_reset: Probe = None
    tcp_destroy_sock: Probe = None
    tcp_rcv_space_adjust: Probe = None
    tcp_retransmit_synack: Probe = None
    # jbd2
    jbd2_checkpoint: Probe = None
    jbd2_start_commit: Probe = None
    jbd2_commit_locking: Probe = None
    jbd2_commit_flushing: Probe = None
    jbd2_commit_logging: Probe = None
    jbd2_drop_transaction: Probe = None
    jbd2_end_commit: Probe = None
    jbd2_submit_inode_data: Probe = None
    jbd2_handle_start: Probe = None
    jbd2_handle_extend: Probe = None
    jbd2_handle_stats: Probe = None
    jbd2_run_stats: Probe = None
    jbd2_checkpoint_stats: Probe = None
    jbd2_update_log_tail: Probe = None
    jbd2_write_superblock: Probe = None
    jbd2_lock_buffer_stall: Probe = None
    # ext4
    ext4_other_inode_update_time: Probe = None
    ext4_free_inode: Probe = None
    ext4_request_inode: Probe = None
    ext4_allocate_inode: Probe = None
    ext4_evict_inode: Probe = None
    ext4_drop_inode: Probe = None
    ext4_mark_inode_dirty: Probe = None
    ext4_begin_ordered_truncate: Probe = None
    ext4_write_begin: Probe = None
    ext4_da_write_begin: Probe = None
    ext4_write_end: Probe = None
    ext4_journalled_write_end: Probe = None
    ext4_da_write_end: Probe = None
    ext4_writepages: Probe = None
    ext4_da_write_pages: Probe = None
    ext4_da_write_pages_extent: Probe = None
    ext4_writepages_result: Probe = None
    ext4_writepage: Probe = None
    ext4_readpage: Probe = None
    ext4_releasepage: Probe = None
    ext4_invalidatepage: Probe = None
    ext4_journalled_invalidatepage: Probe = None
    ext4_discard_blocks: Probe = None
    ext4_mb_new_inode_pa: Probe = None
    ext4_mb_new_group_pa: Probe = None
    ext4_mb_release_inode_pa: Probe = None
    ext4_mb_release_group_pa: Probe = None
    ext4_discard_preallocations: Probe = None
    ext4_mb_discard_preallocations: Probe = None
    ext4_request_blocks: Probe = None
    ext4_allocate_blocks: Probe = None
    ext4_free_blocks: Probe = None
    ext4_sync_file_enter: Probe = None
    ext4_sync_file_exit: Probe = None
    ext4_sync_fs: Probe = None
    ext4_alloc_da_blocks: Probe = None
    ext4_mballoc_alloc: Probe = None
    ext4_mballoc_prealloc: Probe = None
    ext4_mballoc_discard: Probe = None
    ext4_mballoc_free: Probe = None
    ext4_forget: Probe = None
    ext4_da_update_reserve_space: Probe = None
    ext4_da_reserve_space: Probe = None
    ext4_da_release_space: Probe = None
    ext4_mb_bitmap_load: Probe = None
    ext4_mb_buddy_bitmap_load: Probe = None
    ext4_load_inode_bitmap: Probe = None
    ext4_read_block_bitmap_load: Probe = None
    ext4_direct_IO_enter: Probe = None
    ext4_direct_IO_exit: Probe = None
    ext4_fallocate_enter: Probe = None
    ext4_punch_hole: Probe = None
    ext4_zero_range: Probe = None
    ext4_fallocate_exit: Probe = None
    ext4_unlink_enter: Probe = None
    ext4_unlink_exit: Probe = None
    ext4_truncate_enter: Probe = None
    ext4_truncate_exit: Probe = None
    ext4_ext_convert_to_initialized_enter: Probe = None
    ext4_ext_convert_to_initialized_fastpath: Probe = None
    ext4_ext_map_blocks_enter: Probe = None
    ext4_ext_map_blocks_exit: Probe = None
    ext4_ind_map_blocks_enter: Probe = None
    ext4_ind_map_blocks_exit: Probe = None
    ext4_ext_load_extent: Probe = None
    ext4_load_inode: Probe = None
    ext4_journal_start: Probe = None
    ext4_journal_start_reserved: Probe = None
    ext4_trim_extent: Probe = None
    ext4_trim_all_free: Probe = None
    ext4_ext_handle_unwritten_extents: Probe = None
    ext4_ext_show_extent: Probe = None
    ext4_remove_blocks: Probe = None
    ext4_ext_rm_leaf: Probe = None
    ext4_ext_rm_idx: Probe = None
    ext4_ext_remove_space: Probe = None
    ext4_ext_remove_space_done: Probe = None
    ext4_es_insert_extent: Probe = None
    ext4_es_cache_extent: Probe = None
    ext4_es_remove_extent: Probe = None
    ext4_es_find_extent_range_enter: Probe = None
    ext4_es_find_extent_range_exit: Probe = None
    ext4_es_lookup_extent_enter: Probe = None
    ext4_es_lookup_extent_exit: Probe = None
    ext4_es_shrink_count: Probe = None
    ext4_es_shrink_scan_enter: Probe = None
    ext4_es_shrink_scan_exit: Probe = None
    ext4_collapse_range: Probe = None
    ext4_insert_range: Probe = None
    ext4_es_shrink: Probe = None
    ext4_es_insert_delayed_block: Probe = None
    ext4_shutdown: Probe = None

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[..., None]]] = {}
        self.next_kaddr = 0xFFFF_8880_0010_0000                   # of the next object that an event shows
        self.kaddrs: dict[int, tuple[int, object]] = {}           # those of objects that have no room for it, by id()


@notrace
def _call_all(listeners: tuple[Callable[..., None], ...]) -> Callable[..., None]:
    def probes(*arguments: object) -> None:
        for listener in listeners:
            listener(*arguments)

    return probes


@notrace
def _publish(kernel: Kernel, name: str) -> None:
    listeners = kernel.tp.listeners[name]
    if not listeners:
        delattr(kernel.tp, name)
    else:
        setattr(kernel.tp, name, listeners[0] if len(listeners) == 1 else _call_all(tuple(listeners)))


@notrace
def _syscall_listeners(kernel: Kernel) -> int:
    return sum(len(kernel.tp.listeners.get(name, ())) for name in _SYSCALL_EVENTS)


def tracepoint_probe_register(kernel: Kernel, name: str, probe: Callable[..., None]) -> None:
    """From now on probe(*arguments) is called there. Raises EEXIST if it already is, ENOENT for an unknown name."""
    if not hasattr(Tracepoints, name):
        raise KernelError(ENOENT)
    listeners = kernel.tp.listeners.setdefault(name, [])
    if probe in listeners:
        raise KernelError(EEXIST)
    listeners.append(probe)
    _publish(kernel, name)
    if name in _SYSCALL_EVENTS and _syscall_listeners(kernel) == 1:
        syscall_regfunc(kernel)


def tracepoint_probe_unregister(kernel: Kernel, name: str, probe: Callable[..., None]) -> None:
    """The contrary. Raises ENOENT if it does not listen."""
    listeners = kernel.tp.listeners.get(name, [])
    if probe not in listeners:
        raise KernelError(ENOENT)
    listeners.remove(probe)
    _publish(kernel, name)
    if name in _SYSCALL_EVENTS and not _syscall_listeners(kernel):
        syscall_unregfunc(kernel)


def syscall_regfunc(kernel: Kernel) -> None:
    """Every task takes the slow way through its system calls; children inherit it."""
    for task in (*for_each_thread(kernel), *kernel.pids.idle_tasks):
        task.ti_flags |= TIF_SYSCALL_TRACEPOINT


def syscall_unregfunc(kernel: Kernel) -> None:
    for task in (*for_each_thread(kernel), *kernel.pids.idle_tasks):
        task.ti_flags &= ~TIF_SYSCALL_TRACEPOINT
