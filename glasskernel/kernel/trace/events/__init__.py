"""Every trace event system, in the order that gives the events their numbers: Linux's link order."""
from __future__ import annotations

import functools

from glasskernel.kernel.trace.events import (
    block,
    cgroup,
    cpuhp,
    exceptions,
    ext4,
    ext4_extents,
    ext4_mballoc,
    filemap,
    ftrace,
    irq,
    irq_vectors,
    jbd2,
    kmem,
    migrate,
    napi,
    net,
    oom,
    power,
    printk,
    raw_syscalls,
    rcu,
    sched,
    signal,
    skb,
    sock,
    task,
    tcp,
    timer,
    tlb,
    vmscan,
    vsyscall,
    workqueue,
    writeback,
    xdp,
)
from glasskernel.kernel.trace.trace_events import FIRST_EVENT_ID, TraceEventCall
from glasskernel.kernel.trace.trace_syscalls import init_syscall_trace
from glasskernel.lib.types import notrace

ADD_TO_EXT4 = (ext4_extents, ext4_mballoc)

SYSTEMS = (
    ftrace.ftrace, vsyscall.vsyscall, irq_vectors.irq_vectors, tlb.tlb, exceptions.exceptions, task.task, cpuhp.cpuhp,
    irq.irq, signal.signal, workqueue.workqueue, sched.sched, printk.printk, rcu.rcu, raw_syscalls.raw_syscalls,
    timer.timer, cgroup.cgroup,
    power.power, xdp.xdp, filemap.filemap, oom.oom, vmscan.vmscan, kmem.kmem, migrate.migrate, writeback.writeback,
    block.block, napi.napi, net.net, skb.skb, sock.sock, tcp.tcp, jbd2.jbd2, ext4.ext4,
)


@functools.cache
@notrace
def event_calls() -> tuple[TraceEventCall, ...]:
    """Every declared event, numbered; system calls come last. The numbers are the same in every kernel."""
    calls = []
    next_id = FIRST_EVENT_ID
    for system in (*SYSTEMS, init_syscall_trace()):
        for call in system.calls:
            if not call.id:
                call.id = next_id
                next_id += 1
            calls.append(call)
    return tuple(calls)
