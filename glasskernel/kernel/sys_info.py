"""uname, host name, sysinfo, getrusage.

Linux: kernel/sys.c (5.3), include/uapi/linux/utsname.h, sysinfo.h. Owns: nothing (the names are the UTS
namespace's).
"""
from __future__ import annotations

from typing import Annotated

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.proc.meminfo import nr_blockdev_pages
from glasskernel.kernel.capability import CAP_SYS_ADMIN, ns_capable
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD, Rusage, getrusage
from glasskernel.kernel.sched.loadavg import get_avenrun
from glasskernel.kernel.time.timekeeping import ktime_get_boottime
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, u16, u32, ulong
from glasskernel.lib.uapi import Layout, uapi
from glasskernel.mm.page_alloc import NR_SHMEM, nr_free_pages
from glasskernel.mm.util import si_swapinfo

__NEW_UTS_LEN = 64
UNAME26 = 0x0020000


@uapi("include/uapi/linux/utsname.h", size=390)
class NewUtsname(Layout):
    """struct new_utsname"""

    sysname: Annotated[bytes, "char[65]"]
    nodename: Annotated[bytes, "char[65]"]
    release: Annotated[bytes, "char[65]"]
    version: Annotated[bytes, "char[65]"]
    machine: Annotated[bytes, "char[65]"]
    domainname: Annotated[bytes, "char[65]"]


@uapi("include/uapi/linux/sysinfo.h", size=112)
class Sysinfo(Layout):
    """struct sysinfo. loads: 16 fractional bits."""

    uptime: long
    loads: Annotated[tuple[int, ...], "u64[3]"]
    totalram: ulong
    freeram: ulong
    sharedram: ulong
    bufferram: ulong
    totalswap: ulong
    freeswap: ulong
    procs: u16
    pad: u16
    pad2: u32
    totalhigh: ulong
    freehigh: ulong
    mem_unit: u32
    pad3: u32


@syscall
def sys_uname(name: UserPtr) -> int:
    """uname(2). Errors: EFAULT."""
    task = current()
    uts = task.nsproxy.uts_ns
    release = uts.release
    # override_release(): programs that cannot read a 3.x or later
    if task.personality & UNAME26:
        release = b"2.6.40" + release[release.find(b"-"):] if b"-" in release else b"2.6.40"
    copy_to_user(name, NewUtsname.STRUCT.pack(
        uts.sysname, uts.nodename, release, uts.version, uts.machine, uts.domainname
    ))
    return 0


@syscall
def sys_sethostname(name: UserPtr, len: int) -> int:
    """sethostname(2). Errors: EPERM, EINVAL, EFAULT."""
    uts = current().nsproxy.uts_ns
    if not ns_capable(None, CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if not 0 <= len <= __NEW_UTS_LEN:
        raise KernelError(EINVAL)
    uts.nodename = copy_from_user(name, len).split(b"\0")[0]
    return 0


@syscall
def sys_setdomainname(name: UserPtr, len: int) -> int:
    """setdomainname(2). Errors: EPERM, EINVAL, EFAULT."""
    uts = current().nsproxy.uts_ns
    if not ns_capable(None, CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if not 0 <= len <= __NEW_UTS_LEN:
        raise KernelError(EINVAL)
    uts.domainname = copy_from_user(name, len).split(b"\0")[0]
    return 0


def do_sysinfo() -> bytes:
    """sysinfo(2)'s answer."""
    kernel = current().kernel
    mem = kernel.mem
    swap_free, swap_total = si_swapinfo(kernel)
    return bytes(Sysinfo.STRUCT.pack(
        -(-ktime_get_boottime() // 1_000_000_000),
        *get_avenrun(kernel, 0, 5),              # SI_LOAD_SHIFT - FSHIFT
        mem.totalram_pages * 4096, nr_free_pages(mem) * 4096, mem.vm_stat[NR_SHMEM] * 4096,
        nr_blockdev_pages(kernel) * 4096, swap_total * 4096, swap_free * 4096,
        kernel.pids.nr_threads & 0xFFFF, 0, 0, 0, 0, 1, 0,
    ))


@syscall
def sys_sysinfo(info: UserPtr) -> int:
    """sysinfo(2). Errors: EFAULT."""
    copy_to_user(info, do_sysinfo())
    return 0


@syscall
def sys_getrusage(who: int, ru: UserPtr) -> int:
    """getrusage(2). Errors: EINVAL, EFAULT."""
    if who not in (RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD):
        raise KernelError(EINVAL)
    usage = Rusage()
    getrusage(current(), who, usage)
    copy_to_user(ru, usage.pack())
    return 0
