"""What is wrong with this kernel so far: its taints.

Linux: kernel/panic.c (5.3). Same: /proc/sys/kernel/tainted, the letters in reports. Panics themselves are
    arch/x86/entry/oops.py's.
Owns: kernel.sysctl.tainted. Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

TAINT_DIE = 7
# (letter if set, letter if not) of each flag, from bit 0
taint_flags = ("PG", "F ", "S ", "R ", "M ", "B ", "U ", "D ", "A ", "W ", "C ", "I ", "O ", "E ", "L ", "K ", "X ",
               "T ")


def print_tainted(kernel: Kernel) -> str:
    """`Not tainted`, or the letters of what happened."""
    tainted = kernel.sysctl.tainted
    if not tainted:
        return "Not tainted"
    return "Tainted: " + "".join(letters[not tainted >> bit & 1] for bit, letters in enumerate(taint_flags))


def add_taint(kernel: Kernel, flag: int) -> None:
    """Is never taken back."""
    kernel.sysctl.tainted |= 1 << flag
