"""The file of an event: reading counts, ioctl(2), poll(2), and mapping its buffer.

Linux: perf_fops of kernel/events/core.c (5.3). Same: read formats, requests and their errors; the buffer belongs to
    its mappings, other events may be redirected to it; its pages count against perf_event_mlock_kb and RLIMIT_MEMLOCK.
Gaps: the AUX area (EINVAL), PERF_EVENT_IOC_MODIFY_ATTRIBUTES (EOPNOTSUPP).
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user, get_user_u64, strncpy_from_user
from glasskernel.fs.fcntl_signal import fasync_helper
from glasskernel.fs.file import fdget
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import POLLHUP, FileOperations
from glasskernel.kernel.capability import CAP_IPC_LOCK, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.events.core import (
    perf_event_disable,
    perf_event_enable,
    perf_event_read,
    perf_event_refresh,
    perf_event_release_kernel,
    perf_event_reset,
    perf_state,
)
from glasskernel.kernel.events.output import primary_event_id
from glasskernel.kernel.events.ring_buffer import (
    perf_event_init_userpage,
    perf_event_update_userpage,
    rb_alloc,
    ring_buffer_attach,
    ring_buffer_put,
)
from glasskernel.kernel.events.types import (
    FREQ,
    INHERIT,
    PERF_EVENT_STATE_ACTIVE,
    PERF_EVENT_STATE_ERROR,
    PERF_EVENT_STATE_EXIT,
    PERF_FORMAT_GROUP,
    PERF_FORMAT_ID,
    PERF_FORMAT_TOTAL_TIME_ENABLED,
    PERF_FORMAT_TOTAL_TIME_RUNNING,
    PERF_TYPE_TRACEPOINT,
    USE_CLOCKID,
    WATERMARK,
    WRITE_BACKWARD,
    PerfEvent,
)
from glasskernel.kernel.trace.trace_events_filter import FilterParseError, create_event_filter
from glasskernel.lib.errno import (
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOSPC,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace, to_s32
from glasskernel.mm.page_alloc import get_page
from glasskernel.mm.types import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_SIGBUS,
    VM_SHARED,
    VM_WRITE,
    VmAreaStruct,
    VmFault,
    VmOperations,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter

(PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_DISABLE, PERF_EVENT_IOC_REFRESH, PERF_EVENT_IOC_RESET,
 PERF_EVENT_IOC_SET_OUTPUT) = 0x2400, 0x2401, 0x2402, 0x2403, 0x2405
PERF_EVENT_IOC_PERIOD, PERF_EVENT_IOC_SET_FILTER, PERF_EVENT_IOC_ID = 0x40082404, 0x40082406, 0x80082407
PERF_EVENT_IOC_SET_BPF, PERF_EVENT_IOC_PAUSE_OUTPUT = 0x40042408, 0x40042409
PERF_EVENT_IOC_QUERY_BPF, PERF_EVENT_IOC_MODIFY_ATTRIBUTES = 0xC008240A, 0x4008240B
PERF_IOC_FLAG_GROUP = 1
RLIMIT_MEMLOCK = 8
_PAGE_SIZE = 4096


@notrace
def _u64(value: int) -> bytes:
    return (value & (1 << 64) - 1).to_bytes(8, "little")


# ---- reading -----------------------------------------------------------------------------------------------------
@notrace
def perf_event_read_value(event: PerfEvent) -> tuple[int, int, int]:
    """(count, time enabled, time running), with what children counted."""
    enabled = running = total = 0
    for each in (event, *event.child_list):
        perf_event_read(each)
        total += each.count + each.child_count
        enabled += each.total_time_enabled + each.child_total_time_enabled
        running += each.total_time_running + each.child_total_time_running
    return total, enabled, running


@notrace
def _times(read_format: int, enabled: int, running: int) -> bytes:
    words = b""
    if read_format & PERF_FORMAT_TOTAL_TIME_ENABLED:
        words += _u64(enabled)
    if read_format & PERF_FORMAT_TOTAL_TIME_RUNNING:
        words += _u64(running)
    return words


def perf_read_group(event: PerfEvent, read_format: int) -> bytes:
    leader = event.group_leader
    members = [leader, *leader.sibling_list]
    values = b""
    for member in members:
        count, enabled, running = perf_event_read_value(member)
        if member is leader:
            values = _times(read_format, enabled, running)
        values += _u64(count)
        if read_format & PERF_FORMAT_ID:
            values += _u64(primary_event_id(member))
    return _u64(len(members)) + values


def perf_read_one(event: PerfEvent, read_format: int) -> bytes:
    count, enabled, running = perf_event_read_value(event)
    words = _u64(count) + _times(read_format, enabled, running)
    return words + (_u64(primary_event_id(event)) if read_format & PERF_FORMAT_ID else b"")


@notrace
def _read_size(event: PerfEvent) -> int:
    fmt = event.attr.read_format
    entry = 16 if fmt & PERF_FORMAT_ID else 8
    size = 8 * bool(fmt & PERF_FORMAT_TOTAL_TIME_ENABLED) + 8 * bool(fmt & PERF_FORMAT_TOTAL_TIME_RUNNING)
    if fmt & PERF_FORMAT_GROUP:
        return size + 8 + entry * (1 + len(event.group_leader.sibling_list))
    return size + entry


@may_sleep
def perf_read(iocb: Kiocb, to: IovIter) -> int:
    """->read(). Raises ENOSPC, EFAULT."""
    event: PerfEvent = iocb.ki_filp.private_data
    if event.state == PERF_EVENT_STATE_ERROR:
        return 0
    if to.count < _read_size(event):
        raise KernelError(ENOSPC)
    fmt = event.attr.read_format
    words = perf_read_group(event, fmt) if fmt & PERF_FORMAT_GROUP else perf_read_one(event, fmt)
    return to.copy_to_iter(words)


def perf_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    event: PerfEvent = file.private_data
    poll_wait(file, event.waitq, wait)
    if is_event_hup(event):
        return POLLHUP
    rb = event.rb
    if rb is None:
        return POLLHUP
    mask, rb.poll = rb.poll, 0
    return mask


@notrace
def is_event_hup(event: PerfEvent) -> bool:
    return event.state <= PERF_EVENT_STATE_EXIT and not event.child_list


# ---- requests ----------------------------------------------------------------------------------------------------
@notrace
def perf_event_for_each(event: PerfEvent, func: Callable[[PerfEvent], None]) -> None:
    """For the whole group."""
    leader = event.group_leader
    for member in (leader, *leader.sibling_list):
        perf_event_for_each_child(member, func)


@notrace
def perf_event_for_each_child(event: PerfEvent, func: Callable[[PerfEvent], None]) -> None:
    func(event)
    for child in event.child_list:
        func(child)


@may_sleep
def perf_ioctl(file: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(). Raises EINVAL, EFAULT, EBADF, EEXIST, EOPNOTSUPP, ENOTTY."""
    event: PerfEvent = file.private_data
    simple = {PERF_EVENT_IOC_ENABLE: perf_event_enable, PERF_EVENT_IOC_DISABLE: perf_event_disable,
              PERF_EVENT_IOC_RESET: perf_event_reset}
    if cmd in simple:
        (perf_event_for_each if arg & PERF_IOC_FLAG_GROUP else perf_event_for_each_child)(event, simple[cmd])
        perf_update_userpages(event)
    elif cmd == PERF_EVENT_IOC_REFRESH:
        if event.attr.flags & INHERIT or not event.attr.sample_period:
            raise KernelError(EINVAL)
        perf_event_refresh(event, to_s32(arg))
    elif cmd == PERF_EVENT_IOC_PERIOD:
        perf_event_period(event, get_user_u64(arg))
    elif cmd == PERF_EVENT_IOC_ID:
        copy_to_user(arg, _u64(primary_event_id(event)))
    elif cmd == PERF_EVENT_IOC_SET_OUTPUT:
        perf_event_set_output(event, None if to_s32(arg) == -1 else _output_of(to_s32(arg)))
    elif cmd == PERF_EVENT_IOC_SET_FILTER:
        perf_event_set_filter(event, arg)
    elif cmd == PERF_EVENT_IOC_PAUSE_OUTPUT:
        if event.rb is None or not event.rb.pages:
            raise KernelError(EINVAL)
        event.rb.paused = bool(arg & 0xFFFF_FFFF)
    elif cmd in (PERF_EVENT_IOC_SET_BPF, PERF_EVENT_IOC_QUERY_BPF):
        # imported by the first who wants it
        from glasskernel.kernel.events.bpf import perf_event_query_prog_array, perf_event_set_bpf_prog

        if cmd == PERF_EVENT_IOC_SET_BPF:
            perf_event_set_bpf_prog(event, to_s32(arg))
        else:
            perf_event_query_prog_array(event, arg)
    elif cmd == PERF_EVENT_IOC_MODIFY_ATTRIBUTES:
        raise KernelError(EOPNOTSUPP)
    else:
        raise KernelError(ENOTTY)
    return 0


@notrace
def perf_update_userpages(event: PerfEvent) -> None:
    if event.rb is not None:
        perf_event_update_userpage(event, event.count + event.child_count, event.total_time_enabled,
                                   event.total_time_running)


def perf_event_period(event: PerfEvent, value: int) -> None:
    """Raises EINVAL."""
    attr = event.attr
    if not attr.sample_period or not value:
        raise KernelError(EINVAL)
    if attr.flags & FREQ and value > event.kernel.sysctl.perf_event_sample_rate:
        raise KernelError(EINVAL)
    if not attr.flags & FREQ and value >> 63:
        raise KernelError(EINVAL)
    attr.sample_period = value
    if not attr.flags & FREQ:
        event.hw.sample_period = value
    active = event.state == PERF_EVENT_STATE_ACTIVE
    if active:
        event.pmu.stop(event, 0)
    event.hw.period_left = 0
    if active:
        event.pmu.start(event, 0)


@notrace
def _output_of(fd: int) -> PerfEvent:
    file = fdget(fd)
    if file.f_op is not perf_fops:
        raise KernelError(EBADF)
    event: PerfEvent = file.private_data
    return event


def perf_event_set_output(event: PerfEvent, output_event: PerfEvent | None) -> None:
    """The event writes to another's buffer. Raises EINVAL."""
    if output_event is not None:
        if event is output_event or output_event.cpu != event.cpu:
            raise KernelError(EINVAL)
        if output_event.cpu == -1 and output_event.ctx is not event.ctx:
            raise KernelError(EINVAL)
        if (output_event.attr.flags ^ event.attr.flags) & (USE_CLOCKID | WRITE_BACKWARD):
            raise KernelError(EINVAL)
    if event.mmap_count:
        raise KernelError(EINVAL)
    if output_event is not None and output_event.rb is None:
        return
    ring_buffer_attach(event, output_event.rb if output_event is not None else None)


def perf_event_set_filter(event: PerfEvent, arg: int) -> None:
    """ftrace_profile_set_filter(). Raises EINVAL, EEXIST, EFAULT."""
    if event.attr.type != PERF_TYPE_TRACEPOINT:
        raise KernelError(EINVAL)
    text = strncpy_from_user(arg, _PAGE_SIZE)
    if text is None:
        raise KernelError(EFAULT)
    if event.filter is not None:
        raise KernelError(EEXIST)
    try:
        event.filter = create_event_filter(event.hw.tp_event, text.decode("latin-1"))
    except FilterParseError:
        raise KernelError(EINVAL) from None


# ---- mapping -----------------------------------------------------------------------------------------------------
@notrace
def _event_of(vma: VmAreaStruct) -> PerfEvent:
    assert vma.vm_file is not None
    event: PerfEvent = vma.vm_file.private_data
    return event


def perf_mmap_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault()"""
    event = _event_of(vma)
    rb = event.rb
    if rb is None or vmf.pgoff > len(rb.pages):
        return VM_FAULT_SIGBUS
    vmf.pfn = rb.pages[vmf.pgoff - 1] if vmf.pgoff else rb.user_page
    get_page(event.kernel, vmf.pfn)
    return 0


def perf_mmap_page_mkwrite(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->page_mkwrite(): only data_tail is the program's to write."""
    return VM_FAULT_SIGBUS if vmf.pgoff else 0


def perf_mmap_open(vma: VmAreaStruct) -> None:
    event = _event_of(vma)
    assert event.rb is not None
    event.mmap_count += 1
    event.rb.mmap_count += 1


def perf_mmap_close(vma: VmAreaStruct) -> None:
    """The last mapping of a buffer takes it from all events."""
    event = _event_of(vma)
    rb, kernel = event.rb, event.kernel
    event.mmap_count -= 1
    if rb is None:
        return
    rb.mmap_count -= 1
    if not event.mmap_count:
        ring_buffer_attach(event, None)
    if rb.mmap_count:
        return
    for other in tuple(rb.event_list):
        ring_buffer_attach(other, None)
    locked = perf_state(kernel).locked_vm
    left = locked.pop(rb.mmap_user, 0) - (len(rb.pages) + 1 - rb.mmap_locked)
    if left:
        locked[rb.mmap_user] = left
    vma.vm_mm.pinned_vm -= rb.mmap_locked
    ring_buffer_put(kernel, rb)


perf_mmap_vmops = VmOperations(fault=perf_mmap_fault, page_mkwrite=perf_mmap_page_mkwrite, open=perf_mmap_open,
                               close=perf_mmap_close)


@may_sleep
def perf_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap(): one page of control, then a power of two of data, or none. Raises EINVAL, EPERM, ENOMEM."""
    event: PerfEvent = file.private_data
    if (event.cpu == -1 and event.attr.flags & INHERIT) or not vma.vm_flags & VM_SHARED:
        raise KernelError(EINVAL)
    nr_pages = (vma.vm_end - vma.vm_start >> 12) - 1
    if vma.vm_pgoff or nr_pages & nr_pages - 1:
        raise KernelError(EINVAL)
    if event.rb is not None:
        if len(event.rb.pages) != nr_pages or not event.rb.mmap_count:
            raise KernelError(EINVAL)
    else:
        _new_buffer(event, vma, nr_pages)
    vma.vm_flags |= VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP
    vma.vm_ops = perf_mmap_vmops
    perf_mmap_open(vma)


@notrace
def _new_buffer(event: PerfEvent, vma: VmAreaStruct, nr_pages: int) -> None:
    """Allocates and accounts it."""
    kernel, task = event.kernel, current()
    sysctl, locked = kernel.sysctl, perf_state(kernel).locked_vm
    uid = task.cred.uid
    pages = nr_pages + 1
    limit = (sysctl.perf_event_mlock_kb >> 2) * len(kernel.machine.cpus)
    extra = min(max(locked.get(uid, 0) + pages - limit, 0), pages)
    if extra and vma.vm_mm.pinned_vm + extra > task.signal.rlim[RLIMIT_MEMLOCK][0] >> 12:
        if sysctl.perf_event_paranoid > -1 and not capable(CAP_IPC_LOCK):
            raise KernelError(EPERM)
    attr = event.attr
    rb = rb_alloc(kernel, nr_pages, attr.wakeup_events if attr.flags & WATERMARK else 0,
                  not vma.vm_flags & VM_WRITE)
    rb.mmap_locked, rb.mmap_user = extra, uid
    locked[uid] = locked.get(uid, 0) + pages - extra
    vma.vm_mm.pinned_vm += extra
    ring_buffer_attach(event, rb)
    perf_event_init_userpage(event)
    perf_event_read(event)
    perf_update_userpages(event)


def perf_fasync(fd: int, filp: File, on: int) -> None:
    """->fasync(): SIGIO at each overflow."""
    event: PerfEvent = filp.private_data
    fasync_helper(fd, filp, on, event.fasync)


def perf_release(inode: Inode, file: File) -> None:
    """->release()"""
    perf_event_release_kernel(file.private_data)


perf_fops = FileOperations(release=perf_release, read_iter=perf_read, poll=perf_poll, unlocked_ioctl=perf_ioctl,
                           mmap=perf_mmap, fasync=perf_fasync)
