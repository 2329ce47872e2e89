"""/proc/stat, uptime, loadavg, interrupts, softirqs and schedstat: what the CPUs did.

Linux: fs/proc/stat.c, uptime.c, loadavg.c, interrupts.c, softirqs.c, kernel/irq/proc.c,
    kernel/sched/stats.c (5.3).
Same: columns and units (1/100 s).
Owns: nothing. Gaps: scheduler domains in schedstat.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_data, proc_create_seq_data, proc_create_single_data
from glasskernel.fs.seq_file import (
    SeqFile,
    SeqOperations,
    seq_lseek,
    seq_printf,
    seq_put_decimal_ull,
    seq_putc,
    seq_puts,
    seq_read,
    single_open_size,
    single_release,
)
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.irq.irqdesc import NR_IRQS, arch_interrupts, softirq_to_name
from glasskernel.kernel.sched.cputime import kcpustat_cpu
from glasskernel.kernel.sched.loadavg import FIXED_1, FSHIFT, get_avenrun
from glasskernel.kernel.sched.types import (
    CPUTIME_GUEST,
    CPUTIME_GUEST_NICE,
    CPUTIME_IDLE,
    CPUTIME_IOWAIT,
    CPUTIME_IRQ,
    CPUTIME_NICE,
    CPUTIME_SOFTIRQ,
    CPUTIME_STEAL,
    CPUTIME_SYSTEM,
    CPUTIME_USER,
)
from glasskernel.kernel.time.timekeeping import getboottime64, ktime_get_boottime, nsec_to_clock_t
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

_CPU_COLUMNS = (CPUTIME_USER, CPUTIME_NICE, CPUTIME_SYSTEM, CPUTIME_IDLE, CPUTIME_IOWAIT, CPUTIME_IRQ,
                CPUTIME_SOFTIRQ, CPUTIME_STEAL, CPUTIME_GUEST, CPUTIME_GUEST_NICE)


# ---- stat ----------------------------------------------------------------------------------------
@notrace
def online_cpus(kernel: Kernel) -> list[int]:
    mask = kernel.sched.cpu_online_mask or 1
    return [cpu for cpu in range(len(kernel.machine.cpus)) if mask >> cpu & 1]


@notrace
def kstat_irqs_total(kernel: Kernel) -> tuple[int, list[int]]:
    """(all interrupts since boot, those of each number)"""
    irq = kernel.irq
    numbers = [0] * NR_IRQS
    for number, desc in irq.descs.items():
        numbers[number] = desc.tot_count
    total = sum(numbers) + sum(sum(row) for row in irq.cpu_stat.values()) + irq.err_count
    return total, numbers


def show_stat(m: SeqFile, v: Any) -> int | None:
    """proc(5): CPU times, interrupts, context switches, boot time, forks, running, blocked, softirqs."""
    kernel = current().kernel
    cpus = [(cpu, [nsec_to_clock_t(kcpustat_cpu(kernel, cpu)[column]) for column in _CPU_COLUMNS])
            for cpu in range(len(kernel.machine.cpus))]
    seq_puts(m, b"cpu ")
    for column in range(len(_CPU_COLUMNS)):
        seq_put_decimal_ull(m, b" ", sum(times[column] for _, times in cpus))
    seq_putc(m, b"\n")
    online = online_cpus(kernel)
    for cpu, times in cpus:
        if cpu in online:
            seq_puts(m, b"cpu%d %b\n" % (cpu, b" ".join(b"%d" % t for t in times)))
    total, numbers = kstat_irqs_total(kernel)
    seq_puts(m, b"intr %d %b\n" % (total, b" ".join(b"%d" % n for n in numbers)))
    rqs = kernel.sched.rqs
    softirqs = [sum(row) for row in kernel.irq.softirqs]
    seq_puts(m, (b"ctxt %d\nbtime %d\nprocesses %d\nprocs_running %d\nprocs_blocked %d\nsoftirq %d %b\n") % (
        sum(rq.nr_switches for rq in rqs), getboottime64(kernel) // 1_000_000_000, kernel.pids.total_forks,
        sum(rq.nr_running for rq in rqs), sum(rq.nr_iowait for rq in rqs), sum(softirqs),
        b" ".join(b"%d" % n for n in softirqs)))
    return None


def stat_open(inode: Inode, file: File) -> None:
    """The first buffer is big enough for all CPUs and interrupts."""
    size = 1024 + 128 * len(inode.i_sb.kernel.machine.cpus) + 2 * NR_IRQS
    single_open_size(file, show_stat, None, size)


proc_stat_operations = FileOperations(
    open=stat_open, read_iter=seq_read, llseek=seq_lseek, release=single_release,
)


# ---- uptime, loadavg -----------------------------------------------------------------------------
def uptime_proc_show(m: SeqFile, v: Any) -> int | None:
    """Seconds since boot, and seconds that all CPUs together idled."""
    kernel = current().kernel
    idle = sum(kcpustat_cpu(kernel, cpu)[CPUTIME_IDLE] for cpu in range(len(kernel.machine.cpus)))
    uptime = ktime_get_boottime()
    seq_printf(m, b"%d.%02d %d.%02d\n", uptime // 1_000_000_000, uptime % 1_000_000_000 // 10_000_000,
               idle // 1_000_000_000, idle % 1_000_000_000 // 10_000_000)
    return None


def loadavg_proc_show(m: SeqFile, v: Any) -> int | None:
    """Three averages, running/all threads, the youngest number."""
    kernel = current().kernel
    text = []
    for load in get_avenrun(kernel, FIXED_1 // 200, 0):
        text.append(b"%d.%02d" % (load >> FSHIFT, (load & FIXED_1 - 1) * 100 >> FSHIFT))
    seq_printf(m, b"%b %d/%d %d\n", b" ".join(text), sum(rq.nr_running for rq in kernel.sched.rqs),
               kernel.pids.nr_threads, kernel.pids.last_pid)
    return None


# ---- interrupts ----------------------------------------------------------------------------------
def int_seq_start(m: SeqFile) -> Any:
    return (m.index,) if m.index <= NR_IRQS else None


def int_seq_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return int_seq_start(m)


def show_interrupts(m: SeqFile, v: Any) -> int | None:
    """The line of one number; behind the last one, the interrupts that have none."""
    kernel = current().kernel
    number = v[0]
    cpus = online_cpus(kernel)
    if number == 0:
        seq_puts(m, b" " * 11 + b"".join(b"CPU%-8d" % cpu for cpu in cpus) + b"\n")
    if number == NR_IRQS:
        arch_show_interrupts(m, kernel, cpus)
        return None
    desc = kernel.irq.descs.get(number)
    if desc is None or (not desc.actions and not desc.tot_count):
        return None
    seq_puts(m, b"%3d: %b" % (number, b"".join(b"%10d " % desc.kstat_irqs[cpu] for cpu in cpus)))
    seq_puts(m, b" %8b %3b" % (desc.chip.name.encode(), b"%d" % desc.hwirq if desc.hwirq >= 0 else b""))
    if desc.name:
        seq_puts(m, b"-%-8b" % desc.name.encode())
    if desc.actions:
        seq_puts(m, b"  " + b", ".join(action.name.encode() for action in desc.actions))
    seq_putc(m, b"\n")
    return None


def arch_show_interrupts(m: SeqFile, kernel: Kernel, cpus: list[int]) -> None:
    """NMI ... MIS (arch/x86/kernel/irq.c)"""
    irq = kernel.irq
    for label, text in arch_interrupts:
        row = irq.cpu_stat[label]
        seq_puts(m, b"%3b: %b  %b\n" % (label.encode(), b"".join(b"%10d " % row[cpu] for cpu in cpus), text.encode()))
    seq_puts(m, b"ERR: %10d\nMIS: %10d\n" % (irq.err_count, irq.mis_count))


int_seq_ops = SeqOperations(int_seq_start, int_seq_next, show_interrupts)


def show_softirqs(m: SeqFile, v: Any) -> int | None:
    kernel = current().kernel
    cpus = range(len(kernel.machine.cpus))
    seq_puts(m, b" " * 20 + b"".join(b"CPU%-8d" % cpu for cpu in cpus) + b"\n")
    for name, row in zip(softirq_to_name, kernel.irq.softirqs):
        seq_puts(m, b"%12b:%b\n" % (name.encode(), b"".join(b" %10d" % row[cpu] for cpu in cpus)))
    return None


# ---- schedstat -----------------------------------------------------------------------------------
def show_schedstat(m: SeqFile, v: Any) -> int | None:
    """Version 15: a line a CPU."""
    kernel = current().kernel
    seq_puts(m, b"version 15\ntimestamp %d\n" % kernel.time.jiffies)
    for cpu in online_cpus(kernel):
        rq = kernel.sched.rqs[cpu]
        seq_puts(m, b"cpu%d %d 0 %d %d %d %d %d %d %d\n" % (
            cpu, rq.yld_count, rq.sched_count, rq.sched_goidle, rq.ttwu_count, rq.ttwu_local, rq.rq_cpu_time,
            rq.run_delay, rq.pcount))
    return None


@notrace
def proc_stat_init(kernel: Kernel) -> None:
    proc_create_data(kernel, b"stat", 0, None, proc_stat_operations, None)
    proc_create_single_data(kernel, b"uptime", 0, None, uptime_proc_show)
    proc_create_single_data(kernel, b"loadavg", 0, None, loadavg_proc_show)
    proc_create_seq_data(kernel, b"interrupts", 0, None, int_seq_ops)
    proc_create_single_data(kernel, b"softirqs", 0, None, show_softirqs)
    proc_create_single_data(kernel, b"schedstat", 0, None, show_schedstat)
