"""The variables behind /proc/sys that belong to no single room, with Linux's defaults.

Linux: kernel/sysctl.c, mm/util.c, mm/mmap.c. Each field is read where it takes effect; a file under /proc/sys exists
only for a variable that does something.
"""
from __future__ import annotations

from glasskernel.lib.slotted import slotted


@slotted
class Sysctl:
    """kernel.sysctl"""

    max_map_count: int = 65530
    mmap_min_addr: int = 65536
    overcommit_memory: int = 0         # 0 heuristic, 1 always, 2 never beyond the ratio
    overcommit_ratio: int = 50         # per cent of RAM
    overcommit_kbytes: int = 0         # instead of the ratio, if not 0
    admin_reserve_kbytes: int = 0      # set at boot: mm/util.py
    user_reserve_kbytes: int = 0
    vfs_cache_pressure: int = 100      # per cent of unused dentries and inodes that shrinkers are told of
    page_cluster: int = 3              # read at most so many pages from swap at once, as a power of two
    panic_on_oops: int = 0
    panic_on_oom: int = 0              # 2: even if only some nodes are short
    oom_kill_allocating_task: int = 0  # not the worst process, but the one that asked
    oom_dump_tasks: int = 1
    tainted: int = 0                   # kernel/panic.py
    ftrace_enabled: int = 1
    randomize_va_space: int = 2
    core_pattern: bytes = b"core"
    core_uses_pid: int = 0
    nr_open: int = 1048576
    perf_event_paranoid: int = 2       # -1: anybody; 0: no raw records; 1: no CPUs; 2: not the kernel
    perf_event_mlock_kb: int = 516     # of each user's buffers, for each CPU
    perf_event_sample_rate: int = 100_000
    perf_event_max_stack: int = 127
    unprivileged_bpf_disabled: int = 0
    bpf_stats_enabled: int = 0         # programs count their runs and their time
    aio_nr: int = 0                    # events that all io_setup(2) asked for
    aio_max_nr: int = 0x10000
