"""Core dumps.

Linux: fs/coredump.c (5.3). Gaps: no core file is written, whatever RLIMIT_CORE says; so the wait status never
    carries the core bit, as on Linux when the limit is 0.
"""
from __future__ import annotations

from glasskernel.kernel.signal_types import KernelSiginfo


def do_coredump(siginfo: KernelSiginfo) -> None:
    """A process dies of a signal that asks for a core file.

    Linux returns here too when RLIMIT_CORE forbids one.
    """
    return None
