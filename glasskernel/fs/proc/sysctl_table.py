"""What is in /proc/sys: kernel, fs, vm.

Linux: the tables of kernel/sysctl.c, kernel/utsname_sysctl.c, drivers/char/random.c (5.3). Same: names and
    modes.
Owns: nothing. A file without a variable that does something is absent. Other rooms add theirs with
    register_sysctl().
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.drop_caches import drop_caches
from glasskernel.fs.fs_writeback import WB_REASON_PERIODIC, wakeup_flusher_threads
from glasskernel.fs.pipe import PIPE_USER_PAGES_SOFT
from glasskernel.fs.proc.proc_sysctl import CtlTable, integer, numbers, register_sysctl, string
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.autogroup import enable_autogroups
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.mm.dirty_limits import writeback_set_ratelimit
from glasskernel.mm.page_alloc import setup_per_zone_lowmem_reserve, setup_per_zone_wmarks
from glasskernel.mm.vmstat import sysctl_vm_numa_stat_handler

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

CAP_LAST_CAP = 37
FUTEX_TID_MASK = 0x3FFFFFFF


@notrace
def _uts(kernel: Kernel) -> Any:
    return current().nsproxy.uts_ns


@notrace
def _sysctl(kernel: Kernel) -> Any:
    return kernel.sysctl


@notrace
def _sched(kernel: Kernel) -> Any:
    return kernel.sched


@notrace
def _pids(kernel: Kernel) -> Any:
    return kernel.pids


@notrace
def _log(kernel: Kernel) -> Any:
    return kernel.log


@notrace
def _vfs(kernel: Kernel) -> Any:
    return kernel.vfs


@notrace
def constant(name: bytes, value: bytes) -> CtlTable:
    """A number that is built in and cannot be changed in Linux either."""
    return CtlTable(name, 0o444, lambda _kernel: value)


@notrace
def core_pattern_get(kernel: Kernel) -> bytes:
    return kernel.sysctl.core_pattern


# ---- kernel --------------------------------------------------------------------------------------
@notrace
def printk_get(kernel: Kernel) -> bytes:
    log = kernel.log
    return b"%d\t%d\t%d\t%d" % (log.console_loglevel, log.default_message_loglevel, log.minimum_console_loglevel,
                                log.default_console_loglevel)


@notrace
def printk_set(kernel: Kernel, text: bytes) -> None:
    log = kernel.log
    for name, value in zip(("console_loglevel", "default_message_loglevel", "minimum_console_loglevel",
                            "default_console_loglevel"), numbers(text)):
        setattr(log, name, value)


@notrace
def _uuid(raw: bytes) -> bytes:
    digits = raw.hex()
    return b"-".join(part.encode() for part in (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@notrace
def random_uuid_get(kernel: Kernel) -> bytes:
    """A new version 4 UUID at every read."""
    raw = bytearray(kernel.machine.random_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return _uuid(bytes(raw))


@notrace
def boot_id_get(kernel: Kernel) -> bytes:
    """The same UUID until the machine is switched off."""
    raw = bytearray(kernel.random.boot_id)
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return _uuid(bytes(raw))


@notrace
def entropy_avail_get(kernel: Kernel) -> bytes:
    return b"%d" % kernel.random.entropy_count


@notrace
def ns_last_pid_set(kernel: Kernel, text: bytes) -> None:
    """Errors: EINVAL outside 0..pid_max."""
    values = numbers(text)
    if values and not 0 <= values[0] <= kernel.pids.pid_max:
        raise KernelError(EINVAL)
    if values:
        kernel.pids.last_pid = values[0]


def sched_proc_update_handler(kernel: Kernel) -> None:
    """How many tasks fit into one latency period (kernel/sched/fair.c)."""
    sched = kernel.sched
    sched.sched_nr_latency = -(-sched.sysctl_sched_latency // sched.sysctl_sched_min_granularity)


@notrace
def _granularity(name: bytes, attribute: str, low: int, high: int) -> CtlTable:
    """A time of CFS in ns."""
    plain = integer(name, 0o644, _sched, attribute, low, high)
    assert plain.set is not None
    store = plain.set

    def set(kernel: Kernel, text: bytes) -> None:
        store(kernel, text)
        sched_proc_update_handler(kernel)

    return CtlTable(name, 0o644, plain.get, set)


@notrace
def sched_rr_get(kernel: Kernel) -> bytes:
    """Ticks as ms."""
    return b"%d" % (kernel.sched.sched_rr_timeslice * 4)


@notrace
def sched_rr_set(kernel: Kernel, text: bytes) -> None:
    """0 or less: back to 100 ms."""
    values = numbers(text)
    if values:
        kernel.sched.sched_rr_timeslice = -(-values[0] // 4) if values[0] > 0 else 25


@notrace
def sched_autogroup_set(kernel: Kernel, text: bytes) -> None:
    """Errors: EINVAL."""
    values = numbers(text)
    if values and values[0] not in (0, 1):
        raise KernelError(EINVAL)
    if values:
        enable_autogroups(kernel, values[0])


_KERNEL = [
    constant(b"ostype", b"Linux"),
    CtlTable(b"osrelease", 0o444, lambda k: _uts(k).release),
    CtlTable(b"version", 0o444, lambda k: _uts(k).version),
    string(b"hostname", 0o644, _uts, "nodename", 65),
    string(b"domainname", 0o644, _uts, "domainname", 65),
    CtlTable(b"core_pattern", 0o444, core_pattern_get),              # read-only: no core is ever written
    integer(b"panic_on_oops", 0o644, _sysctl, "panic_on_oops"),
    integer(b"randomize_va_space", 0o644, _sysctl, "randomize_va_space"),
    integer(b"pid_max", 0o644, _pids, "pid_max", 301, 1 << 22),
    integer(b"threads-max", 0o644, _pids, "max_threads", 20, FUTEX_TID_MASK),
    CtlTable(b"ns_last_pid", 0o666, lambda k: b"%d" % k.pids.last_pid, ns_last_pid_set),
    constant(b"ngroups_max", b"65536"),
    constant(b"cap_last_cap", b"%d" % CAP_LAST_CAP),
    constant(b"overflowuid", b"65534"),
    constant(b"overflowgid", b"65534"),
    CtlTable(b"printk", 0o644, printk_get, printk_set),
    integer(b"printk_ratelimit", 0o644, _log, "printk_ratelimit", 0),
    integer(b"printk_ratelimit_burst", 0o644, _log, "printk_ratelimit_burst"),
    integer(b"perf_event_paranoid", 0o644, _sysctl, "perf_event_paranoid"),
    integer(b"perf_event_mlock_kb", 0o644, _sysctl, "perf_event_mlock_kb"),
    integer(b"perf_event_max_sample_rate", 0o644, _sysctl, "perf_event_sample_rate", 1),
    integer(b"perf_event_max_stack", 0o644, _sysctl, "perf_event_max_stack", 0, 640),
    integer(b"unprivileged_bpf_disabled", 0o644, _sysctl, "unprivileged_bpf_disabled", 1, 1),
    integer(b"bpf_stats_enabled", 0o644, _sysctl, "bpf_stats_enabled", 0, 1),
    integer(b"dmesg_restrict", 0o644, _log, "dmesg_restrict", 0, 1),
    _granularity(b"sched_latency_ns", "sysctl_sched_latency", 100_000, 1_000_000_000),
    _granularity(b"sched_min_granularity_ns", "sysctl_sched_min_granularity", 100_000, 1_000_000_000),
    _granularity(b"sched_wakeup_granularity_ns", "sysctl_sched_wakeup_granularity", 0, 1_000_000_000),
    integer(b"sched_child_runs_first", 0o644, _sched, "sysctl_sched_child_runs_first"),
    integer(b"sched_cfs_bandwidth_slice_us", 0o644, _sched, "sysctl_sched_cfs_bandwidth_slice", 1),
    CtlTable(b"sched_autogroup_enabled", 0o644, lambda k: b"%d" % _sched(k).sysctl_sched_autogroup_enabled,
             sched_autogroup_set),
    integer(b"sched_schedstats", 0o644, _sched, "schedstats", 0, 1),
    integer(b"sched_migration_cost_ns", 0o644, _sched, "sysctl_sched_migration_cost"),
    integer(b"sched_nr_migrate", 0o644, _sched, "sysctl_sched_nr_migrate"),
    integer(b"sched_rt_period_us", 0o644, _sched, "sysctl_sched_rt_period", 1),
    integer(b"sched_rt_runtime_us", 0o644, _sched, "sysctl_sched_rt_runtime", -1),
    CtlTable(b"sched_rr_timeslice_ms", 0o644, sched_rr_get, sched_rr_set),
]
_RANDOM = [
    CtlTable(b"boot_id", 0o444, boot_id_get),
    CtlTable(b"uuid", 0o444, random_uuid_get),
    CtlTable(b"entropy_avail", 0o444, entropy_avail_get),
    constant(b"poolsize", b"4096"),
]


# ---- fs ------------------------------------------------------------------------------------------
@notrace
def file_nr_get(kernel: Kernel) -> bytes:
    vfs = kernel.vfs
    return b"%d\t0\t%d" % (vfs.nr_files, vfs.max_files)


@notrace
def inode_nr_get(kernel: Kernel) -> bytes:
    return b"%d\t0" % kernel.vfs.nr_inodes


@notrace
def inode_state_get(kernel: Kernel) -> bytes:
    return b"%d\t0\t0\t0\t0\t0\t0" % kernel.vfs.nr_inodes


@notrace
def dentry_state_get(kernel: Kernel) -> bytes:
    return b"%d\t0\t45\t0\t0\t0" % kernel.vfs.nr_dentry


@notrace
def pipe_max_size_set(kernel: Kernel, text: bytes) -> None:
    """Rounded up to a power of two, at least a page. Errors: EINVAL."""
    values = numbers(text)
    if not values:
        return
    if not 0 < values[0] <= 1 << 31:
        raise KernelError(EINVAL)
    kernel.vfs.pipe_max_size = max(1 << (values[0] - 1).bit_length(), 4096)


_FS = [
    integer(b"aio-max-nr", 0o644, _sysctl, "aio_max_nr", 0, (1 << 64) - 1),
    integer(b"aio-nr", 0o444, _sysctl, "aio_nr"),
    integer(b"dir-notify-enable", 0o644, _vfs, "dir_notify_enable"),
    integer(b"file-max", 0o644, _vfs, "max_files", 0, (1 << 63) - 1),
    CtlTable(b"file-nr", 0o444, file_nr_get),
    CtlTable(b"inode-nr", 0o444, inode_nr_get),
    CtlTable(b"inode-state", 0o444, inode_state_get),
    CtlTable(b"dentry-state", 0o444, dentry_state_get),
    integer(b"nr_open", 0o644, _sysctl, "nr_open", 64, 0x7FFFFFC0),
    CtlTable(b"pipe-max-size", 0o644, lambda k: b"%d" % k.vfs.pipe_max_size, pipe_max_size_set),
    constant(b"pipe-user-pages-soft", b"%d" % PIPE_USER_PAGES_SOFT),
    constant(b"pipe-user-pages-hard", b"0"),
    constant(b"overflowuid", b"65534"),
    constant(b"overflowgid", b"65534"),
]


# ---- kernel.ftrace_enabled -------------------------------------------------------------------------
def ftrace_enable_sysctl(kernel: Kernel, text: bytes) -> None:
    """Function tracing as a whole, on or off. Tracing itself lies above and may not have been used yet."""
    values = numbers(text)
    if not values:
        return
    kernel.sysctl.ftrace_enabled = int(bool(values[0]))
    if kernel.ftrace is not None:
        kernel.ftrace.enabled = bool(values[0])
        kernel.ftrace.update()


# ---- kernel.tainted ------------------------------------------------------------------------------
def proc_taint(kernel: Kernel, text: bytes) -> None:
    """Writing adds flags. Errors: EINVAL, EPERM."""
    from glasskernel.kernel.panic import add_taint  # late: start-up time

    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    for value in numbers(text)[:1]:
        for flag in range((value & U64_MAX).bit_length()):
            if value >> flag & 1:
                add_taint(kernel, flag)


# ---- vm ------------------------------------------------------------------------------------------
@notrace
def _mem(kernel: Kernel) -> Any:
    return kernel.mem


def min_free_kbytes_sysctl_handler(kernel: Kernel, text: bytes) -> None:
    """The watermarks follow at once. Errors: EINVAL below 0."""
    values = numbers(text)
    if not values:
        return
    if values[0] < 0:
        raise KernelError(EINVAL)
    kernel.mem.min_free_kbytes = kernel.mem.user_min_free_kbytes = values[0]
    setup_per_zone_wmarks(kernel.mem)


def watermark_scale_factor_sysctl_handler(kernel: Kernel, text: bytes) -> None:
    """The distance between the watermarks, in 10,000ths of a zone. Errors: EINVAL outside 1..1000."""
    values = numbers(text)
    if not values:
        return
    if not 1 <= values[0] <= 1000:
        raise KernelError(EINVAL)
    kernel.mem.watermark_scale_factor = values[0]
    setup_per_zone_wmarks(kernel.mem)


@notrace
def lowmem_reserve_ratio_get(kernel: Kernel) -> bytes:
    return b"\t".join([b"%d" % ratio for ratio in kernel.mem.sysctl_lowmem_reserve_ratio])


def lowmem_reserve_ratio_sysctl_handler(kernel: Kernel, text: bytes) -> None:
    """One number a zone, from DMA on; below 1: the zone keeps nothing."""
    ratios = kernel.mem.sysctl_lowmem_reserve_ratio
    for i, value in enumerate(numbers(text)[: len(ratios)]):
        ratios[i] = max(value, 0)
    setup_per_zone_lowmem_reserve(kernel.mem)


def numa_zonelist_order_handler(kernel: Kernel, text: bytes) -> None:
    """There is only one order any more (mm/page_alloc.c). Errors: EINVAL but for Default and Node."""
    if text[:1] not in b"dDnN":
        kernel.printk(f"Ignoring unsupported numa_zonelist_order value:  {text.decode(errors='replace').rstrip()}", 4)
        raise KernelError(EINVAL)


def drop_caches_sysctl_handler(kernel: Kernel, text: bytes) -> None:
    """Errors: EINVAL outside 1..4."""
    values = numbers(text)
    if values and not 1 <= values[0] <= 4:
        raise KernelError(EINVAL)
    if values:
        drop_caches(kernel, values[0])


@notrace
def _writeback(kernel: Kernel) -> Any:
    return kernel.writeback


@notrace
def dirty_limit_handler(name: bytes, attribute: str, other: str, high: int) -> CtlTable:
    """dirty_ratio_handler() and its relatives: a ratio and a number of bytes switch each other off."""
    def get(kernel: Kernel) -> bytes:
        return b"%d" % getattr(kernel.writeback, attribute)

    def set(kernel: Kernel, text: bytes) -> None:
        values = numbers(text)
        if not values:
            return
        low = 8192 if attribute == "vm_dirty_bytes" else 1 if attribute == "dirty_background_bytes" else 0
        if not low <= values[0] <= high:
            raise KernelError(EINVAL)
        setattr(kernel.writeback, attribute, values[0])
        setattr(kernel.writeback, other, 0)
        writeback_set_ratelimit(kernel)

    return CtlTable(name, 0o644, get, set)


@notrace
def overcommit_handler(name: bytes, attribute: str, other: str) -> CtlTable:
    """overcommit_ratio_handler() and overcommit_kbytes_handler(): a value in one clears the other."""
    def set(kernel: Kernel, text: bytes) -> None:
        values = numbers(text)
        if not values:
            return
        if values[0] < 0:
            raise KernelError(EINVAL)
        setattr(kernel.sysctl, attribute, values[0])
        setattr(kernel.sysctl, other, 0)

    return CtlTable(name, 0o644, lambda kernel: b"%d" % getattr(kernel.sysctl, attribute), set)


def dirty_writeback_centisecs_handler(kernel: Kernel, text: bytes) -> None:
    """A new interval counts from now: every device with dirty inodes looks again."""
    values = numbers(text)
    if not values:
        return
    if values[0] < 0:
        raise KernelError(EINVAL)
    kernel.writeback.dirty_writeback_interval = values[0]
    if values[0]:
        wakeup_flusher_threads(kernel, WB_REASON_PERIODIC)


@notrace
def nr_hugepages_get(kernel: Kernel) -> bytes:
    return b"%d" % (kernel.hugetlb.nr_huge_pages if kernel.hugetlb is not None else 0)


@notrace
def nr_overcommit_hugepages_get(kernel: Kernel) -> bytes:
    return b"%d" % (kernel.hugetlb.nr_overcommit_huge_pages if kernel.hugetlb is not None else 0)


@notrace
def one_count(text: bytes) -> int | None:
    """The number that was written, if one was. Errors: EINVAL below 0."""
    values = numbers(text)
    if values and values[0] < 0:
        raise KernelError(EINVAL)
    return values[0] if values else None


def hugetlb_sysctl_handler(kernel: Kernel, text: bytes) -> None:
    """The pool of huge pages grows or shrinks, as far as it can."""
    value = one_count(text)
    if value is not None:
        from glasskernel.mm.hugetlb import set_max_huge_pages  # late: few want huge pages

        set_max_huge_pages(kernel.hugetlb_init(), value)


def hugetlb_overcommit_handler(kernel: Kernel, text: bytes) -> None:
    """How many pages it may grow by when it is empty."""
    value = one_count(text)
    if value is not None:
        kernel.hugetlb_init().nr_overcommit_huge_pages = value


@notrace
def hugetlb_shm_group_set(kernel: Kernel, text: bytes) -> None:
    value = one_count(text)
    if value is not None:
        kernel.hugetlb_init().sysctl_hugetlb_shm_group = value


_VM = [
    dirty_limit_handler(b"dirty_background_ratio", "dirty_background_ratio", "dirty_background_bytes", 100),
    dirty_limit_handler(b"dirty_background_bytes", "dirty_background_bytes", "dirty_background_ratio", 1 << 62),
    dirty_limit_handler(b"dirty_ratio", "vm_dirty_ratio", "vm_dirty_bytes", 100),
    dirty_limit_handler(b"dirty_bytes", "vm_dirty_bytes", "vm_dirty_ratio", 1 << 62),
    integer(b"dirty_expire_centisecs", 0o644, _writeback, "dirty_expire_interval", 0),
    CtlTable(b"dirty_writeback_centisecs", 0o644, lambda k: b"%d" % k.writeback.dirty_writeback_interval,
             dirty_writeback_centisecs_handler),
    integer(b"dirtytime_expire_seconds", 0o644, _writeback, "dirtytime_expire_interval", 0),
    CtlTable(b"drop_caches", 0o200, lambda _k: b"0", drop_caches_sysctl_handler),
    integer(b"overcommit_memory", 0o644, _sysctl, "overcommit_memory", 0, 2),
    overcommit_handler(b"overcommit_ratio", "overcommit_ratio", "overcommit_kbytes"),
    overcommit_handler(b"overcommit_kbytes", "overcommit_kbytes", "overcommit_ratio"),
    integer(b"admin_reserve_kbytes", 0o644, _sysctl, "admin_reserve_kbytes", 0),
    integer(b"user_reserve_kbytes", 0o644, _sysctl, "user_reserve_kbytes", 0),
    integer(b"max_map_count", 0o644, _sysctl, "max_map_count", 0),
    integer(b"mmap_min_addr", 0o644, _sysctl, "mmap_min_addr", 0),
    CtlTable(b"min_free_kbytes", 0o644, lambda k: b"%d" % k.mem.min_free_kbytes, min_free_kbytes_sysctl_handler),
    CtlTable(b"watermark_scale_factor", 0o644, lambda k: b"%d" % k.mem.watermark_scale_factor,
             watermark_scale_factor_sysctl_handler),
    CtlTable(b"lowmem_reserve_ratio", 0o644, lowmem_reserve_ratio_get, lowmem_reserve_ratio_sysctl_handler),
    CtlTable(b"numa_zonelist_order", 0o644, lambda _k: b"Node", numa_zonelist_order_handler),
    CtlTable(b"numa_stat", 0o644, lambda k: b"%d" % (k.mem.numa_stat_since is not None), sysctl_vm_numa_stat_handler),
    integer(b"panic_on_oom", 0o644, _sysctl, "panic_on_oom", 0, 2),
    integer(b"oom_kill_allocating_task", 0o644, _sysctl, "oom_kill_allocating_task", 0),
    integer(b"oom_dump_tasks", 0o644, _sysctl, "oom_dump_tasks", 0),
    integer(b"page-cluster", 0o644, _sysctl, "page_cluster", 0),
    integer(b"swappiness", 0o644, _mem, "vm_swappiness", 0, 100),
    integer(b"vfs_cache_pressure", 0o644, _sysctl, "vfs_cache_pressure", 0),
    CtlTable(b"nr_hugepages", 0o644, nr_hugepages_get, hugetlb_sysctl_handler),
    CtlTable(b"nr_hugepages_mempolicy", 0o644, nr_hugepages_get, hugetlb_sysctl_handler),
    CtlTable(b"nr_overcommit_hugepages", 0o644, nr_overcommit_hugepages_get,
             hugetlb_overcommit_handler),
    CtlTable(b"hugetlb_shm_group", 0o644, lambda k: b"%d" % (k.hugetlb.sysctl_hugetlb_shm_group if k.hugetlb else 0),
             hugetlb_shm_group_set),
]


def sysctl_init(kernel: Kernel) -> None:
    """Fills /proc/sys."""
    register_sysctl(kernel, b"kernel", _KERNEL)
    register_sysctl(kernel, b"kernel", [
        CtlTable(b"ftrace_enabled", 0o644, lambda k: b"%d" % k.sysctl.ftrace_enabled, ftrace_enable_sysctl),
        CtlTable(b"tainted", 0o644, lambda k: b"%d" % k.sysctl.tainted, proc_taint)])
    register_sysctl(kernel, b"kernel/random", _RANDOM)
    register_sysctl(kernel, b"fs", _FS)
    register_sysctl(kernel, b"vm", _VM)
