"""Running out of memory.

Linux: include/trace/events/oom.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.mm.types import MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.page_alloc import Zone
    from glasskernel.mm.types import MmStruct


oom = trace_system("oom")


@oom.event(
    fields="pid_t pid; char comm[16]; short oom_score_adj",
    print_fmt='"pid=%d comm=%s oom_score_adj=%hd", REC->pid, REC->comm, REC->oom_score_adj',
)
def oom_score_adj_update(task: TaskStruct) -> Values:
    return (task.pid, task.comm, task.signal.oom_score_adj)


@oom.event(
    fields="int node; int zone_idx; int order; unsigned long reclaimable; unsigned long available; "
           "unsigned long min_wmark; int no_progress_loops; bool wmark_check",
    print_fmt=(
        '"node=%d zone=%-8s order=%d reclaimable=%lu available=%lu min_wmark=%lu no_progress_loops=%d '
        'wmark_check=%d", REC->node, __print_symbolic(REC->zone_idx, {0, "DMA"}, {1, "DMA32"}, {2, "Normal"}, '
        '{3, "Movable"}), REC->order, REC->reclaimable, REC->available, REC->min_wmark, REC->no_progress_loops, '
        'REC->wmark_check'),
)
def reclaim_retry_zone(zone: Zone, zone_idx: int, order: int, reclaimable: int, available: int, min_wmark: int,
                       no_progress_loops: int, wmark_check: bool) -> Values:
    return (zone.node, zone_idx, order, reclaimable, available, min_wmark, no_progress_loops, wmark_check)


@oom.event(
    fields="int pid; __data_loc char[] comm; unsigned long total_vm; unsigned long anon_rss; unsigned long file_rss; "
           "unsigned long shmem_rss; uid_t uid; unsigned long pgtables; short oom_score_adj",
    print_fmt=(
        '"pid=%d comm=%s total-vm=%lukB anon-rss=%lukB file-rss:%lukB shmem-rss:%lukB uid=%u pgtables=%lukB '
        'oom_score_adj=%hd", REC->pid, __get_str(comm), REC->total_vm, REC->anon_rss, REC->file_rss, '
        'REC->shmem_rss, REC->uid, REC->pgtables, REC->oom_score_adj'),
)
def mark_victim(task: TaskStruct, mm: MmStruct) -> Values:
    """In kB, as in the kernel that the format was taken from."""
    rss = mm.rss_stat
    return (task.pid, task.comm, mm.total_vm << 2, rss[MM_ANONPAGES] << 2, rss[MM_FILEPAGES] << 2,
            rss[MM_SHMEMPAGES] << 2, task.cred.uid, mm.pgtables_bytes >> 10, task.signal.oom_score_adj)
