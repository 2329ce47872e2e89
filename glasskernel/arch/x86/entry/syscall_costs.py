"""What each system call costs in virtual time, in ns, when it does not wait: entry, exit, and the work above the file
systems.

Charged at the entry. Where the figures come from: machine/costs.py; what depends on the work (pages, blocks, journal
handles, bytes copied) is charged where it is done. At least 20 ns for each kernel function that a call usually goes
through (the trace clock's two records), so that a trace of all of them has room for its stamps.
"""
from __future__ import annotations

from typing import Final

from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.machine.costs import SYSCALL

_COSTS: Final = {
    60000: (
        "execve execveat"
    ),
    20000: (
        "exit_group"
    ),
    3000: (
        "rename renameat renameat2 unlink unlinkat link linkat symlink symlinkat mknod mknodat mq_unlink "
        "socket socketpair connect accept accept4"             # sockets: guesses; packets cost extra
    ),
    15000: (
        "fork clone clone3 vfork"
    ),
    8000: (
        "mkdir mkdirat rmdir"
    ),
    5000: (
        "mount umount2 sync syncfs fsync fdatasync"
    ),
    2000: (
        "sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg"
    ),
    2500: (
        "open openat openat2 creat truncate ftruncate fallocate copy_file_range sendfile exit "
        "mq_open"
    ),
    1500: (
        "stat lstat statx newfstatat access faccessat faccessat2 chdir chroot statfs chmod fchmodat chown "
        "lchown fchownat utimensat utime utimes futimesat readlink readlinkat setxattr getxattr listxattr "
        "mmap lsetxattr lgetxattr llistxattr removexattr lremovexattr splice tee vmsplice io_submit bind listen"
    ),
    1000: (
        "read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 getdents64 getdents wait4 "
        "waitid munmap mremap madvise mprotect msync pipe pipe2 futex poll ppoll select pselect6 "
        "epoll_wait epoll_pwait nanosleep clock_nanosleep kill tkill tgkill epoll_create epoll_create1 "
        "eventfd2 timerfd_create signalfd4 memfd_create inotify_add_watch unshare setns ptrace "
        "mq_timedsend mq_timedreceive"
    ),
    600: (
        "close brk ioctl fstat lseek sched_yield epoll_ctl dup dup2 dup3 rt_sigreturn setpriority "
        "sched_setaffinity sched_setscheduler sched_setattr fchdir fstatfs flock timer_settime setitimer "
        "timerfd_settime mlock munlock mincore setsockopt getsockopt getsockname getpeername shutdown"
    ),
    200: (
        "fcntl rt_sigaction rt_sigprocmask sysinfo prctl prlimit64 getrlimit setrlimit getcwd uname times "
        "getrusage"
    ),
}


def _table() -> list[int]:
    table = [SYSCALL] * 512
    for cost, names in _COSTS.items():
        for name in names.split():
            number = SYSCALL_NUMBERS.get(name)
            assert number is not None, name
            table[number] = cost
    return table


SYSCALL_COST: Final = _table()
