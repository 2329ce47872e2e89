"""Tracepoints: places in the kernel that tell whoever listens.

Linux: kernel/tracepoint.c, include/linux/tracepoint.h (5.3). Same: several listeners are called in the order they came;
    sys_enter and sys_exit mark every task, so that system calls cost nothing while nobody listens.
Differs: a static key is an attribute of kernel.tp that is None; a call site is
        probe = kernel.tp.sched_switch
        if probe is not None:
            probe(preempt, prev, next_)
Owns: Tracepoints (kernel.tp). What an event is called in tracefs, and its fields, is declared in kernel/trace/events/.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.pid import for_each_thread
from glasskernel.kernel.task import TIF_SYSCALL_TRACEPOINT
from glasskernel.lib.errno import EEXIST, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

Probe = Callable[..., None] | None
_SYSCALL_EVENTS = ("sys_enter", "sys_exit")


class Tracepoints:
    """Every tracepoint of a kernel. The class holds the default: nobody listens."""

    # raw_syscalls
    sys_enter: Probe = None
    sys_exit: Probe = None

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[..., None]]] = {}


@notrace
def _call_all(listeners: tuple[Callable[..., None], ...]) -> Callable[..., None]:
    def probes(*arguments: object) -> None:
        for listener in listeners:
            listener(*arguments)

    return probes


@notrace
def _publish(kernel: Kernel, name: str) -> None:
    listeners = kernel.tp.listeners[name]
    if not listeners:
        delattr(kernel.tp, name)
    else:
        setattr(kernel.tp, name, listeners[0] if len(listeners) == 1 else _call_all(tuple(listeners)))


@notrace
def _syscall_listeners(kernel: Kernel) -> int:
    return sum(len(kernel.tp.listeners.get(name, ())) for name in _SYSCALL_EVENTS)


def tracepoint_probe_register(kernel: Kernel, name: str, probe: Callable[..., None]) -> None:
    """From now on probe(*arguments) is called there. Raises EEXIST if it already is, ENOENT for an unknown name."""
    if not hasattr(Tracepoints, name):
        raise KernelError(ENOENT)
    listeners = kernel.tp.listeners.setdefault(name, [])
    if probe in listeners:
        raise KernelError(EEXIST)
    listeners.append(probe)
    _publish(kernel, name)
    if name in _SYSCALL_EVENTS and _syscall_listeners(kernel) == 1:
        syscall_regfunc(kernel)


def tracepoint_probe_unregister(kernel: Kernel, name: str, probe: Callable[..., None]) -> None:
    """The contrary. Raises ENOENT if it does not listen."""
    listeners = kernel.tp.listeners.get(name, [])
    if probe not in listeners:
        raise KernelError(ENOENT)
    listeners.remove(probe)
    _publish(kernel, name)
    if name in _SYSCALL_EVENTS and not _syscall_listeners(kernel):
        syscall_unregfunc(kernel)


def syscall_regfunc(kernel: Kernel) -> None:
    """Every task takes the slow way through its system calls; children inherit it."""
    for task in (*for_each_thread(kernel), *kernel.pids.idle_tasks):
        task.ti_flags |= TIF_SYSCALL_TRACEPOINT


def syscall_unregfunc(kernel: Kernel) -> None:
    for task in (*for_each_thread(kernel), *kernel.pids.idle_tasks):
        task.ti_flags &= ~TIF_SYSCALL_TRACEPOINT
