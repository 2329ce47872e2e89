"""SELinux starts: its state, and the table of its hooks.

Linux: selinux_init() of security/selinux/hooks.c (5.3). Same: selinux=0|1 and enforcing=0|1 of the command line; the
    boot task is labelled `kernel`; before a policy is loaded everything is allowed. The hooks are in hooks_*.py.
Owns: kernel.selinux. Gaps: NetLabel, labelled IPsec, packets (secmark), BPF and perf events, binder, InfiniBand, SCTP.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.audit import audit_init
from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace
from glasskernel.security.lsm_hooks import LsmInfo, security_add_hooks
from glasskernel.security.selinux.avc import avc_ss_reset, selinux_avc_init
from glasskernel.security.selinux.flask import SECINITSID_KERNEL
from glasskernel.security.selinux.hooks_file import FILE_HOOKS
from glasskernel.security.selinux.hooks_inode import INODE_HOOKS
from glasskernel.security.selinux.hooks_ipc import IPC_HOOKS
from glasskernel.security.selinux.hooks_net import NET_HOOKS
from glasskernel.security.selinux.hooks_super import SUPER_HOOKS, selinux_complete_init
from glasskernel.security.selinux.hooks_task import TASK_HOOKS
from glasskernel.security.selinux.objsec import TaskSecurityStruct
from glasskernel.security.selinux.ss.services import selinux_ss_init

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

@notrace
def boot_option(kernel: Kernel, option: str, default: bool) -> bool:
    """OPTION=0|1 of the command line, the last one; other numbers count as 1."""
    value = default
    for word in kernel.params.cmdline.split():
        name, equals, text = word.partition("=")
        if name == option and equals and text.isdecimal():
            value = bool(int(text))
    return value


@notrace
def selinux_enabled(kernel: Kernel) -> bool:
    """selinux=0: off."""
    return boot_option(kernel, "selinux", True)


def selinux_init(kernel: Kernel) -> None:
    """Makes kernel.selinux and registers the hooks. Context: boot, before the first super block."""
    kernel.printk("SELinux:  Initializing.")
    audit_init(kernel)
    state = selinux_ss_init(kernel)
    state.enforcing = boot_option(kernel, "enforcing", False)
    state.avc = selinux_avc_init(kernel)
    state.avc_ss_reset.append(avc_ss_reset)
    state.complete_init.append(selinux_complete_init)
    kernel.selinux = state
    cred_init_security()
    security_add_hooks(kernel, FILE_HOOKS | INODE_HOOKS | SUPER_HOOKS | TASK_HOOKS | IPC_HOOKS | NET_HOOKS, "selinux")
    mode = "enforcing" if state.enforcing else "permissive"
    kernel.printk(f"SELinux:  Starting in {mode} mode", 7)


def cred_init_security() -> None:
    """The boot task is labelled."""
    register.task.real_cred.security = TaskSecurityStruct(SECINITSID_KERNEL, SECINITSID_KERNEL)


selinux_lsm = LsmInfo("selinux", selinux_init, selinux_enabled)
