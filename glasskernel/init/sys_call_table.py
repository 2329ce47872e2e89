"""sys_call_table: made of what the kernel's modules declare with @syscall.

Linux: arch/x86/entry/syscall_64.c. Differs: a file that only declares calls, and that no other room needs, is imported
when a program first makes one of them, as Linux loads modules: start-up time counts.
Invariants: a call is declared by a file that start_kernel() imports, or its file is named in ON_DEMAND (a test of ours
    imports every file of the kernel and compares).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.entry.traps import ia32_table
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.lib.errno import ENOSYS, KernelError
from glasskernel.lib.syscalls import DECLARED, Registers, SyscallHandler, declared_by, find_syscall
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

NR_SYSCALLS = 512
ON_DEMAND: Final = {
    "block.ioprio": "ioprio_set ioprio_get",
    "fs.aio.context": "io_setup",
    "fs.aio.events": "io_destroy io_cancel io_getevents io_pgetevents",
    "fs.aio.request": "io_submit",
    "fs.eventfd": "eventfd2 eventfd",
    "fs.eventpoll": "epoll_ctl epoll_wait epoll_pwait epoll_pwait2 epoll_create1 epoll_create",
    "fs.fcntl": "fcntl flock",
    "fs.fhandle": "name_to_handle_at open_by_handle_at",
    "fs.inotify": "inotify_init1 inotify_init inotify_add_watch inotify_rm_watch",
    "fs.ioctl": "ioctl",
    "fs.readdir": "getdents64 getdents",
    "fs.select": "poll ppoll select pselect6",
    "fs.signalfd": "signalfd4 signalfd",
    "fs.splice": "splice tee vmsplice sendfile copy_file_range",
    "fs.sync": "sync syncfs fsync fdatasync sync_file_range",
    "fs.timerfd": "timerfd_create timerfd_settime timerfd_gettime",
    "fs.utimes": "utimensat futimesat utimes utime",
    "fs.xattr": "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr "
                "lremovexattr fremovexattr",
    "ipc.mqueue": "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    "ipc.msg": "msgget msgsnd msgrcv msgctl",
    "kernel.bpf.syscall": "bpf",
    "kernel.events.syscall": "perf_event_open",
    "kernel.kcmp": "kcmp",
    "kernel.membarrier": "membarrier",
    "kernel.process_vm": "process_vm_readv process_vm_writev",
    "kernel.ptrace_request": "ptrace",
    "kernel.reboot": "reboot",
    "kernel.sched.syscalls": "sched_yield nice setpriority getpriority sched_setscheduler sched_setparam "
                             "sched_getscheduler sched_getparam sched_setattr sched_getattr sched_get_priority_max "
                             "sched_get_priority_min sched_rr_get_interval sched_setaffinity sched_getaffinity getcpu",
    "kernel.sys_info": "uname sethostname setdomainname sysinfo getrusage",
    "kernel.sys_prctl": "prctl personality",
    "kernel.time.time": "clock_gettime clock_getres gettimeofday time times clock_settime settimeofday adjtimex "
                        "clock_adjtime nanosleep clock_nanosleep",
    "mm.fadvise": "fadvise64 readahead",
    "mm.madvise": "madvise",
    "mm.mbind": "set_mempolicy get_mempolicy mbind migrate_pages",
    "mm.memfd": "memfd_create",
    "mm.mincore": "mincore",
    "mm.mlock": "mlock mlock2 munlock mlockall munlockall",
    "mm.move_pages": "move_pages",
    "mm.msync": "msync",
    "mm.swapoff": "swapoff",
    "mm.swapon": "swapon",
    "net.socket_calls": "socket socketpair bind listen accept accept4 connect getsockname getpeername shutdown",
    "net.socket_options": "setsockopt getsockopt",
    "net.socket_messages": "sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
    "security.keys.keyctl": "add_key request_key keyctl",
}

for _module, _names in ON_DEMAND.items():
    declared_by(f"glasskernel.{_module}", _names.split())


@notrace
def fill_tables(kernel: Kernel) -> None:
    """kernel.sys_call_table by number, and i386's for int $0x80."""
    table = [_ni_syscall(kernel, nr) for nr in range(NR_SYSCALLS)]
    for name, number in SYSCALL_NUMBERS.items():
        if name in DECLARED:
            table[number] = _first_call(name, table, number)
    kernel.sys_call_table = table
    kernel.ia32_sys_call_table = ia32_table(DECLARED)


@notrace
def _first_call(name: str, table: list[SyscallHandler], number: int) -> SyscallHandler:
    """What stands in the table until a program makes the call."""

    def compile_and_call(regs: Registers) -> int:
        table[number] = find_syscall(name).entry
        return table[number](regs)

    return compile_and_call


@notrace
def _ni_syscall(kernel: Kernel, nr: int) -> SyscallHandler:
    """sys_ni_syscall() for one number: counts, for --report."""

    def sys_ni_syscall(_regs: Registers) -> int:
        kernel.enosys[nr] = kernel.enosys.get(nr, 0) + 1
        raise KernelError(ENOSYS)

    return sys_ni_syscall
