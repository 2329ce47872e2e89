"""What is in /proc from the start, but made (and imported) only when somebody looks: many programs never do.

Linux: proc_root_init() in fs/proc/root.c and the initcalls of other rooms (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.base import proc_flush_task, proc_pid_lookup, proc_pid_readdir, proc_tgid_count
from glasskernel.fs.proc.diskstats import proc_genhd_init
from glasskernel.fs.proc.files import proc_files_init
from glasskernel.fs.proc.generic import proc_mkdir, proc_symlink
from glasskernel.fs.proc.irq import init_irq_proc
from glasskernel.fs.proc.keys import key_proc_init
from glasskernel.fs.proc.proc_net import proc_net_init
from glasskernel.fs.proc.proc_sysctl import proc_sys_init
from glasskernel.fs.proc.self import proc_self_init
from glasskernel.fs.proc.sysctl_table import sysctl_init
from glasskernel.ipc.proc import ipc_proc_init
from glasskernel.kernel.configs import ikconfig_init
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def proc_fill(kernel: Kernel) -> None:
    """Context: the first who looks into /proc, registers a sysctl or starts a tracer."""
    proc_symlink(kernel, b"mounts", None, b"self/mounts")
    proc_mkdir(kernel, b"tty")
    init_irq_proc(kernel)
    for init in (proc_self_init, proc_net_init, proc_sys_init, sysctl_init, proc_files_init, proc_genhd_init,
                 ikconfig_init, key_proc_init, ipc_proc_init):
        init(kernel)
    state = kernel.proc
    state.pid_lookup, state.pid_readdir, state.tgid_count = proc_pid_lookup, proc_pid_readdir, proc_tgid_count
    kernel.pids.proc_flush_task = proc_flush_task
