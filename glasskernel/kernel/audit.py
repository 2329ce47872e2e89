"""Audit records in the kernel's log: what a security module denied, and changes of its policy.

Linux: kernel/audit.c (5.3), as it works while no audit daemon has connected: records are printed, at most
    kernel.printk_ratelimit_burst of them in kernel.printk_ratelimit seconds. Same: the text, serial numbers, quoting.
Differs: a record is printed at once; Linux lets the thread kauditd do it.
Owns: Kernel.audit (AuditState), made by the first security module. Gaps: NETLINK_AUDIT, rules, records of system calls.
Context: any. Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.d_path import d_path
from glasskernel.kernel.time.timekeeping import ktime_get_coarse_real_ts64
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Path
    from glasskernel.init.kernel import Kernel

AUDIT_AVC, AUDIT_SELINUX_ERR, AUDIT_MAC_POLICY_LOAD, AUDIT_MAC_STATUS, AUDIT_MAC_CONFIG_CHANGE = (
    1400, 1401, 1403, 1404, 1405)
_KERN_WARNING, _KERN_NOTICE = 4, 5
_NS = 1_000_000_000


@slotted
class RatelimitState:
    """struct ratelimit_state: `printed` messages since `begin` (ns)."""

    begin: int = -1
    printed: int = 0
    missed: int = 0


@slotted
class AuditState:
    """kernel.audit"""

    serial: int = 0
    ratelimit: RatelimitState = field(default_factory=RatelimitState)


@slotted
class AuditBuffer:
    """struct audit_buffer: a record that is being written."""

    kernel: Kernel
    type: int
    text: bytearray = field(default_factory=bytearray)


@notrace
def audit_init(kernel: Kernel) -> None:
    """Before the first record."""
    if kernel.audit is None:
        kernel.audit = AuditState()


def audit_log_start(kernel: Kernel, type: int) -> AuditBuffer:
    """Begins a record."""
    assert kernel.audit is not None
    kernel.audit.serial += 1
    ns = ktime_get_coarse_real_ts64()
    ab = AuditBuffer(kernel, type)
    audit_log_format(ab, b"audit(%d.%03d:%d): " % (ns // _NS, ns % _NS // 1_000_000, kernel.audit.serial))
    return ab


def audit_log_format(ab: AuditBuffer, text: bytes) -> None:
    """Adds text."""
    ab.text += text


def audit_log_untrustedstring(ab: AuditBuffer, string: bytes) -> None:
    """Adds a string that somebody chose: in quotes, or as hexadecimal digits if it is not printable."""
    if any(byte == 0x22 or byte < 0x21 or byte > 0x7E for byte in string):
        audit_log_n_hex(ab, string)
    else:
        audit_log_format(ab, b'"%s"' % string)


def audit_log_n_hex(ab: AuditBuffer, data: bytes) -> None:
    """Adds bytes as digits."""
    audit_log_format(ab, data.hex().upper().encode())


def audit_log_d_path(ab: AuditBuffer, prefix: bytes, path: Path) -> None:
    """Adds a path."""
    audit_log_format(ab, prefix)
    audit_log_untrustedstring(ab, d_path(path))


def audit_log_end(ab: AuditBuffer) -> None:
    """The record is complete."""
    kauditd_printk_skb(ab)


def kauditd_printk_skb(ab: AuditBuffer) -> None:
    """Nobody listens: into the kernel's log."""
    if printk_ratelimit(ab.kernel):
        ab.kernel.printk(f"audit: type={ab.type} " + ab.text.decode("utf-8", "surrogateescape"), _KERN_NOTICE)


@notrace
def printk_ratelimit(kernel: Kernel) -> bool:
    """___ratelimit() with the limits of sysctl kernel.printk_ratelimit*. False: not now."""
    assert kernel.audit is not None
    state = kernel.audit.ratelimit
    interval = kernel.log.printk_ratelimit * _NS
    if not interval:
        return True
    now = kernel.machine.now()
    if state.begin < 0:
        state.begin = now
    if now > state.begin + interval:
        if state.missed:
            kernel.printk(f"kauditd_printk_skb: {state.missed} callbacks suppressed", _KERN_WARNING)
        state.begin, state.printed, state.missed = now, 0, 0
    if state.printed < kernel.log.printk_ratelimit_burst:
        state.printed += 1
        return True
    state.missed += 1
    return False


def audit_log(kernel: Kernel, type: int, text: str) -> None:
    """A whole record."""
    ab = audit_log_start(kernel, type)
    audit_log_format(ab, text.encode())
    audit_log_end(ab)
