"""Waiting for readers: synchronize_rcu(), and rcu_barrier() for callbacks.

Linux: kernel/rcu/update.c, and rcu_barrier() of kernel/rcu/tree.c (5.3). Same: synchronize_rcu() is a callback that
wakes the caller, and nothing at all on a machine with one CPU; rcu_barrier() puts a callback behind those of each CPU.
Owns: RcuState.barrier_*. Context: task, may sleep.
Gaps: expedited waits.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.rcu.rcu import RcuState, rcu_segcblist_empty, rcu_segcblist_enqueue
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


class RcuSynchronize:
    """struct rcu_synchronize."""

    __slots__ = ("completion",)

    def __init__(self) -> None:
        self.completion = Completion()


def wakeme_after_rcu(head: RcuSynchronize) -> None:
    """The callback of who waits. Context: softirq."""
    complete(head.completion)


@may_sleep
def __wait_rcu_gp() -> None:
    rs = RcuSynchronize()
    call_rcu(rs, wakeme_after_rcu)
    wait_for_completion(rs.completion)


@may_sleep
def synchronize_rcu() -> None:
    """Returns when everybody who was reading has stopped. Locks: none that a reader or a callback needs."""
    if rcu_blocking_is_gp(register.task.kernel):
        return
    __wait_rcu_gp()


@notrace
def rcu_blocking_is_gp(kernel: Kernel) -> bool:
    """True where to sleep is a grace period: there is no other CPU."""
    return kernel.sched.cpu_online_mask.bit_count() == 1


@may_sleep
def rcu_barrier() -> None:
    """Returns when every callback that was queued before has been called."""
    state = register.task.kernel.rcu
    if state.barrier_mutex is None:
        state.barrier_mutex = Mutex()
    mutex_lock(state.barrier_mutex)
    state.barrier_completion = Completion()
    state.barrier_cpu_count = 1
    for rdp in state.data:
        if not rcu_segcblist_empty(rdp.cblist):
            state.barrier_cpu_count += 1           # rcu_barrier_func()
            rcu_segcblist_enqueue(rdp.cblist, rcu_barrier_callback, state)
    rcu_barrier_callback(state)
    wait_for_completion(state.barrier_completion)
    mutex_unlock(state.barrier_mutex)


def rcu_barrier_callback(state: RcuState) -> None:
    state.barrier_cpu_count -= 1
    if not state.barrier_cpu_count:
        complete(state.barrier_completion)


@notrace
def rcu_barrier_at_rest(kernel: Kernel) -> None:
    """rcu_barrier() for the host, while the machine stands still: then no CPU is inside a reader. Not in Linux."""
    previous = getattr(register, "task", None)
    state = kernel.rcu
    register.task = kernel.machine.this_cpu.task
    try:
        while waiting := [rdp.cblist for rdp in state.data if not rcu_segcblist_empty(rdp.cblist)]:
            for cblist in waiting:                         # what runs may queue more, on another CPU
                callbacks = cblist.done + cblist.wait + cblist.next_ready + cblist.next
                cblist.done, cblist.wait, cblist.next_ready, cblist.next = [], [], [], []
                for function, argument in callbacks:
                    function(argument)
                state.invoked += len(callbacks)
    finally:
        if previous is not None:
            register.task = previous
