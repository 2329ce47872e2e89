"""/proc/cpuinfo, and what CPUID says of our CPUs.

Linux: fs/proc/cpuinfo.c, arch/x86/kernel/cpu/proc.c (5.3). Same: labels, tabs, order of flags.
Owns: nothing. The values are what the engine's CPU model (Westmere) answers to CPUID, which a test checks;
    the speed is that of RDTSC: one tick a nanosecond of virtual time.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_seq_data
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_puts
from glasskernel.kernel.current import current

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

CPU_VENDOR = b"GenuineIntel"
CPU_FAMILY, CPU_MODEL, CPU_STEPPING, CPUID_LEVEL = 6, 44, 1, 11
CPU_MODEL_NAME = b"Westmere E56xx/L56xx/X56xx (Nehalem-C)"
CPU_KHZ = 1_000_000                       # RDTSC: virtual ns
# (level, kind, KB, ways, line size, sets)
CPU_CACHES = ((1, b"Data", 32, 8, 64, 64), (1, b"Instruction", 32, 8, 64, 64), (2, b"Unified", 4096, 16, 64, 4096))
CPU_FLAGS = (
    b"fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx lm "
    b"constant_tsc rep_good nopl cpuid pni pclmulqdq ssse3 cx16 sse4_1 sse4_2 popcnt aes hypervisor lahf_lm arat"
)


def c_start(m: SeqFile) -> Any:
    left = current().kernel.sched.cpu_online_mask >> m.index
    if not left:
        return None
    m.index += (left & -left).bit_length() - 1     # cpumask_next(): those that are off line are not listed
    return m.index + 1


def c_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return c_start(m)


def show_cpuinfo(m: SeqFile, v: Any) -> int | None:
    """One processor: all are cores of one socket."""
    cpu = v - 1
    kernel = current().kernel
    cores = kernel.sched.cpu_online_mask.bit_count()
    flags = CPU_FLAGS.replace(b" apic ", b" ") if kernel.disable_apic else CPU_FLAGS      # setup_disableapic()
    seq_puts(m, (
        b"processor\t: %d\nvendor_id\t: %b\ncpu family\t: %d\nmodel\t\t: %d\nmodel name\t: %b\nstepping\t: %d\n"
        b"cpu MHz\t\t: %d.%03d\ncache size\t: %d KB\nphysical id\t: 0\nsiblings\t: %d\ncore id\t\t: %d\n"
        b"cpu cores\t: %d\napicid\t\t: %d\ninitial apicid\t: %d\nfpu\t\t: yes\nfpu_exception\t: yes\n"
        b"cpuid level\t: %d\nwp\t\t: yes\nflags\t\t: %b\nbugs\t\t:\nbogomips\t: %d.%02d\nclflush size\t: 64\n"
        b"cache_alignment\t: 64\naddress sizes\t: 40 bits physical, 48 bits virtual\npower management:\n\n") % (
        cpu, CPU_VENDOR, CPU_FAMILY, CPU_MODEL, CPU_MODEL_NAME, CPU_STEPPING, CPU_KHZ // 1000, CPU_KHZ % 1000,
        CPU_CACHES[-1][2], cores, cpu, cores, cpu, cpu, CPUID_LEVEL, flags, CPU_KHZ // 500, CPU_KHZ // 5 % 100))
    return None


cpuinfo_op = SeqOperations(c_start, c_next, show_cpuinfo)


def proc_cpuinfo_init(kernel: Kernel) -> None:
    proc_create_seq_data(kernel, b"cpuinfo", 0, None, cpuinfo_op)
