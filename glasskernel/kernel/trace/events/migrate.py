"""Pages that moved to other frames.

Linux: include/trace/events/migrate.h. Format as captured: the fields of huge pages (later than 5.3) are 0 here.
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

migrate = trace_system("migrate")


@migrate.event(
    fields=("unsigned long succeeded; unsigned long failed; unsigned long thp_succeeded; unsigned long thp_failed; "
            "unsigned long thp_split; enum migrate_mode mode; int reason"),
    print_fmt=(
        '"nr_succeeded=%lu nr_failed=%lu nr_thp_succeeded=%lu nr_thp_failed=%lu nr_thp_split=%lu mode=%s reason=%s", '
        'REC->succeeded, REC->failed, REC->thp_succeeded, REC->thp_failed, REC->thp_split, __print_symbolic(REC->mode, '
        '{0, "MIGRATE_ASYNC"}, {1, "MIGRATE_SYNC_LIGHT"}, {2, "MIGRATE_SYNC"}), __print_symbolic(REC->reason, '
        '{0, "compaction"}, {1, "memory_failure"}, {2, "memory_hotplug"}, {3, "syscall_or_cpuset"}, '
        '{4, "mempolicy_mbind"}, {5, "numa_misplaced"}, {6, "contig_range"})'),
)
def mm_migrate_pages(succeeded: int, failed: int, mode: int, reason: int) -> Values:
    return (succeeded, failed, 0, 0, 0, mode, reason)
