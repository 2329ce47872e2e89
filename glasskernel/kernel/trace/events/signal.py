"""Signals: sent and handled.

Linux: include/trace/events/signal.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.signal_types import SEND_SIG_NOINFO, SI_KERNEL, SI_USER
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.signal_types import SigInfoArg
    from glasskernel.kernel.task import KSigaction, TaskStruct


@notrace
def _siginfo(info: SigInfoArg) -> tuple[int, int]:
    """TP_STORE_SIGINFO: (errno, code)"""
    if isinstance(info, int):
        return 0, SI_USER if info == SEND_SIG_NOINFO else SI_KERNEL
    return info.si_errno, info.si_code


signal = trace_system("signal")


@signal.event(
    fields="int sig; int errno; int code; char comm[16]; pid_t pid; int group; int result",
    print_fmt=(
        '"sig=%d errno=%d code=%d comm=%s pid=%d grp=%d res=%d", REC->sig, REC->errno, REC->code, REC->comm, '
        'REC->pid, REC->group, REC->result'),
    irqs_off=True,
)
def signal_generate(sig: int, info: SigInfoArg, task: TaskStruct, group: bool, result: int) -> Values:
    return (sig, *_siginfo(info), task.comm, task.pid, group, result)


@signal.event(
    fields="int sig; int errno; int code; unsigned long sa_handler; unsigned long sa_flags",
    print_fmt=(
        '"sig=%d errno=%d code=%d sa_handler=%lx sa_flags=%lx", REC->sig, REC->errno, REC->code, REC->sa_handler, '
        'REC->sa_flags'),
    irqs_off=True,
)
def signal_deliver(sig: int, info: SigInfoArg, ka: KSigaction) -> Values:
    return (sig, *_siginfo(info), ka.handler, ka.flags)
