"""reboot(2).

Linux: kernel/reboot.c (5.3). Same: magic numbers, permission, messages. Differs: halt, power off and restart
    all stop the machine (Machine.stop()). Gaps: kexec, hibernation (EINVAL).
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import strncpy_from_user
from glasskernel.kernel.capability import CAP_SYS_BOOT, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import schedule, set_current_state
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.lib.errno import EFAULT, EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, u32

LINUX_REBOOT_MAGIC1 = 0xFEE1DEAD
LINUX_REBOOT_MAGIC2 = (672274793, 85072278, 369367448, 537993216)
CMD_RESTART, CMD_HALT, CMD_CAD_ON, CMD_CAD_OFF = 0x01234567, 0xCDEF0123, 0x89ABCDEF, 0
CMD_POWER_OFF, CMD_RESTART2 = 0x4321FEDC, 0xA1B2C3D4


@may_sleep
def machine_halt(message: str) -> None:
    """Stops the machine. Never returns."""
    kernel = current().kernel
    kernel.printk(f"reboot: {message}", 0)
    kernel.machine.stop()
    while True:
        set_current_state(TASK_UNINTERRUPTIBLE)
        schedule()


def kernel_restart(cmd: bytes | None) -> None:
    extra = f" with command '{cmd.decode('latin-1')}'" if cmd is not None else ""
    machine_halt("Restarting system" + extra)


def kernel_halt() -> None:
    machine_halt("System halted")


def kernel_power_off() -> None:
    machine_halt("Power down")


@syscall(gaps="restart stops the machine; no kexec, no hibernation")
def sys_reboot(magic1: u32, magic2: u32, cmd: u32, arg: UserPtr) -> int:
    """reboot(2). Errors: EPERM, EINVAL, EFAULT."""
    if not capable(CAP_SYS_BOOT):
        raise KernelError(EPERM)
    if magic1 != LINUX_REBOOT_MAGIC1 or magic2 not in LINUX_REBOOT_MAGIC2:
        raise KernelError(EINVAL)
    if cmd == CMD_RESTART:
        kernel_restart(None)
    elif cmd in (CMD_CAD_ON, CMD_CAD_OFF):
        return 0
    elif cmd == CMD_HALT:
        kernel_halt()
    elif cmd == CMD_POWER_OFF:
        kernel_power_off()
    elif cmd == CMD_RESTART2:
        text = strncpy_from_user(arg, 255)
        if text is None:
            raise KernelError(EFAULT)
        kernel_restart(text)
    raise KernelError(EINVAL)
