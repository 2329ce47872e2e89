"""perf_event_open(2): checks, and making an event behind a descriptor.

Linux: SYSCALL_DEFINE5(perf_event_open), perf_copy_attr() of kernel/events/core.c (5.3). Same: the order of the checks
    and their errors. The file's operations are file.py's.
Gaps: PERF_FLAG_PID_CGROUP (EINVAL: there is no perf_event cgroup); hardware and cache events are ENOENT, as on a
    machine without a PMU.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, put_user_u32
from glasskernel.fs.anon_inodes import anon_inode_getfile
from glasskernel.fs.file import fd_install, fdget, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.types import O_CLOEXEC, O_RDWR
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.events.core import (
    _free_event,
    find_get_context,
    perf_event_alloc,
    perf_install_in_context,
    perf_state,
)
from glasskernel.kernel.events.file import perf_event_set_output, perf_fops
from glasskernel.kernel.events.init import perf_event_init
from glasskernel.kernel.events.types import (
    EXCLUDE_KERNEL,
    EXCLUSIVE,
    FREQ,
    INHERIT,
    NAMESPACES,
    PERF_ATTR_SIZE_VER0,
    PERF_FLAG_ALL,
    PERF_FLAG_FD_CLOEXEC,
    PERF_FLAG_FD_NO_GROUP,
    PERF_FLAG_FD_OUTPUT,
    PERF_FLAG_PID_CGROUP,
    PERF_FORMAT_MAX,
    PERF_SAMPLE_CALLCHAIN,
    PERF_SAMPLE_MAX,
    PERF_SAMPLE_PHYS_ADDR,
    PERF_SAMPLE_READ,
    PERF_SAMPLE_REGS_INTR,
    PERF_SAMPLE_REGS_USER,
    PERF_SAMPLE_STACK_USER,
    PINNED,
    USE_CLOCKID,
    PerfEvent,
    PerfEventAttr,
)
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_REALCREDS, ptrace_may_access
from glasskernel.kernel.task import PF_EXITING
from glasskernel.kernel.time.types import (
    CLOCK_BOOTTIME,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME,
    CLOCK_TAI,
)
from glasskernel.lib.errno import E2BIG, EACCES, EBADF, EINVAL, ENODEV, EOVERFLOW, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, ulong

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

_RESERVED_FLAGS = ~((1 << 31) - 1)
_REGS_INVALID = ~0xFF0FFF                        # 24 registers, without DS, ES, FS, GS


@notrace
def _too_big(uattr: int) -> KernelError:
    put_user_u32(uattr + 4, PerfEventAttr.SIZE)
    return KernelError(E2BIG)


def perf_copy_attr(uattr: int) -> PerfEventAttr:
    """Raises E2BIG (and tells which size it knows), EINVAL, EFAULT."""
    known = PerfEventAttr.SIZE
    size = int.from_bytes(copy_from_user(uattr + 4, 4), "little") or PERF_ATTR_SIZE_VER0
    if not PERF_ATTR_SIZE_VER0 <= size <= 4096:
        raise _too_big(uattr)
    if size > known and any(copy_from_user(uattr + known, size - known)):
        raise _too_big(uattr)
    attr = PerfEventAttr.unpack(copy_from_user(uattr, min(size, known)).ljust(known, b"\0"))
    attr.size = size
    kind = attr.sample_type
    if attr.flags & _RESERVED_FLAGS or attr.reserved_2:
        raise KernelError(EINVAL)
    if kind >= PERF_SAMPLE_MAX or attr.read_format >= PERF_FORMAT_MAX:
        raise KernelError(EINVAL)
    if kind & PERF_SAMPLE_REGS_USER and not perf_reg_validate(attr.sample_regs_user):
        raise KernelError(EINVAL)
    if kind & PERF_SAMPLE_STACK_USER and (attr.sample_stack_user >= 0xFFFF or attr.sample_stack_user & 7):
        raise KernelError(EINVAL)
    if kind & PERF_SAMPLE_REGS_INTR and not perf_reg_validate(attr.sample_regs_intr):
        raise KernelError(EINVAL)
    return attr


@notrace
def perf_reg_validate(mask: int) -> bool:
    return bool(mask) and not mask & _REGS_INVALID


def perf_event_set_clock(event: PerfEvent, clk_id: int) -> None:
    """Raises EINVAL."""
    kernel = event.kernel
    time = kernel.time
    if clk_id == CLOCK_REALTIME:
        event.clock_offset = lambda: time.offs_real
    elif clk_id == CLOCK_BOOTTIME:
        event.clock_offset = lambda: time.offs_boot
    elif clk_id == CLOCK_TAI:
        event.clock_offset = lambda: time.offs_real + time.tai_offset * 1_000_000_000
    elif clk_id not in (CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW):
        raise KernelError(EINVAL)


@notrace
def _permitted(kernel: Kernel, attr: PerfEventAttr) -> None:
    """What perf_event_paranoid allows. Raises EACCES, EINVAL."""
    sysctl = kernel.sysctl
    admin = capable(CAP_SYS_ADMIN)
    if not attr.flags & EXCLUDE_KERNEL and sysctl.perf_event_paranoid > 1 and not admin:
        raise KernelError(EACCES)
    if attr.flags & NAMESPACES and not admin:
        raise KernelError(EACCES)
    if attr.flags & FREQ:
        if attr.sample_period > sysctl.perf_event_sample_rate:
            raise KernelError(EINVAL)
    elif attr.sample_period >> 63:
        raise KernelError(EINVAL)
    if attr.sample_type & PERF_SAMPLE_PHYS_ADDR and sysctl.perf_event_paranoid > 1 and not admin:
        raise KernelError(EACCES)
    if not attr.sample_max_stack:
        attr.sample_max_stack = sysctl.perf_event_max_stack


@notrace
def perf_fget_light(fd: int) -> PerfEvent:
    """Raises EBADF."""
    file = fdget(fd)
    if file.f_op is not perf_fops:
        raise KernelError(EBADF)
    event: PerfEvent = file.private_data
    return event


def find_lively_task_by_vpid(vpid: int) -> TaskStruct:
    """Raises ESRCH."""
    task = current() if not vpid else find_task_by_vpid(vpid)
    if task is None:
        raise KernelError(ESRCH)
    return task


@notrace
def _check_group(leader: PerfEvent, event: PerfEvent, task: TaskStruct | None) -> None:
    """Whether the event fits into the group. Raises EINVAL."""
    flags = event.attr.flags
    if (leader.group_leader is not leader or leader.cpu != event.cpu or leader.ctx.task is not task
            or flags & (EXCLUSIVE | PINNED)
            or (leader.clock_offset is None) != (event.clock_offset is None)
            or flags & USE_CLOCKID != leader.attr.flags & USE_CLOCKID):
        raise KernelError(EINVAL)


@syscall(gaps="PERF_FLAG_PID_CGROUP; hardware and cache events")
def sys_perf_event_open(attr_uptr: UserPtr, pid: int, cpu: int, group_fd: int, flags: ulong) -> int:
    """perf_event_open(2). Errors: E2BIG, EACCES, EBADF, EINVAL, EMFILE, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM, ESRCH."""
    kernel = current().kernel
    if flags & ~PERF_FLAG_ALL:
        raise KernelError(EINVAL)
    attr = perf_copy_attr(attr_uptr)
    _permitted(kernel, attr)
    if flags & PERF_FLAG_PID_CGROUP:
        raise KernelError(EINVAL)
    perf_event_init(kernel)
    fd = get_unused_fd_flags(O_RDWR | (O_CLOEXEC if flags & PERF_FLAG_FD_CLOEXEC else 0))
    try:
        event = _open(kernel, attr, pid, cpu, group_fd, flags)
        try:
            file = anon_inode_getfile(b"[perf_event]", perf_fops, event, O_RDWR)
        except KernelError:
            _free_event(event)
            raise
    except KernelError:
        put_unused_fd(fd)
        raise
    event.filp = file
    perf_install_in_context(find_get_context(kernel, event.hw.target, cpu), event)
    fd_install(fd, file)
    return fd


@notrace
def _open(kernel: Kernel, attr: PerfEventAttr, pid: int, cpu: int, group_fd: int, flags: int) -> PerfEvent:
    group_leader = output_event = None
    if group_fd != -1:
        group_leader = perf_fget_light(group_fd)
        if flags & PERF_FLAG_FD_OUTPUT:
            output_event = group_leader
        if flags & PERF_FLAG_FD_NO_GROUP:
            group_leader = None
    task = find_lively_task_by_vpid(pid) if pid != -1 else None
    if task is not None:
        if group_leader is not None and (group_leader.attr.flags ^ attr.flags) & INHERIT:
            raise KernelError(EINVAL)
        if not ptrace_may_access(task, PTRACE_MODE_READ_REALCREDS):
            raise KernelError(EACCES)
    if not 0 <= cpu < len(kernel.machine.cpus) and (task is None or cpu != -1):
        raise KernelError(EINVAL)
    if task is None and not kernel.sched.cpu_online_mask >> cpu & 1:
        raise KernelError(ENODEV)
    if attr.flags & INHERIT and attr.sample_type & PERF_SAMPLE_READ:
        raise KernelError(EINVAL)
    if attr.sample_type & PERF_SAMPLE_CALLCHAIN and attr.sample_max_stack > kernel.sysctl.perf_event_max_stack:
        raise KernelError(EOVERFLOW)
    event = perf_event_alloc(kernel, attr, cpu, task, group_leader, None)
    try:
        if attr.flags & USE_CLOCKID:
            perf_event_set_clock(event, attr.clockid)
        if task is None and kernel.sysctl.perf_event_paranoid > 0 and not capable(CAP_SYS_ADMIN):
            raise KernelError(EACCES)
        if task is not None and task.flags & PF_EXITING:
            raise KernelError(ESRCH)
        event.ctx = find_get_context(kernel, task, cpu)
        if group_leader is not None:
            _check_group(group_leader, event, task)
        if output_event is not None:
            perf_event_set_output(event, output_event)
    except KernelError:
        if task is not None and event.ctx is not None and not event.ctx.event_list:
            perf_state(kernel).task_contexts.pop(task, None)
        _free_event(event)
        raise
    return event
