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
    panic_on_oops: int = 0
    ftrace_enabled: int = 1
    randomize_va_space: int = 2
    core_pattern: bytes = b"core"
    core_uses_pid: int = 0
    nr_open: int = 1048576
    perf_event_paranoid: int = 2       # -1: anybody; 0: no raw records; 1: no CPUs; 2: not the kernel
    perf_event_mlock_kb: int = 516     # of each user's buffers, for each CPU
    perf_event_sample_rate: int = 100_000
    perf_event_max_stack: int = 127
    aio_nr: int = 0                    # events that all io_setup(2) asked for
    aio_max_nr: int = 0x10000
