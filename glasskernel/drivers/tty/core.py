"""Boot order of the terminals.

Linux: module_init order of drivers/tty. Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.tty.console import hvc_init
from glasskernel.drivers.tty.n_tty import n_tty_init
from glasskernel.drivers.tty.pty import pty_init
from glasskernel.drivers.tty.tty_io import tty_io_init
from glasskernel.fs.devpts import init_devpts_fs
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def tty_init(kernel: Kernel) -> None:
    """Everything in /dev that is a terminal. Needs workqueues, irq, sysfs, devtmpfs; kernel.machine.console set."""
    init_devpts_fs(kernel)
    tty_io_init(kernel)
    n_tty_init(kernel)
    pty_init(kernel)
    hvc_init(kernel)
