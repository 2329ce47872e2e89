"""The kernel's numbers of classes and permissions, and the policy's.

Linux: selinux_set_mapping(), unmap_class(), map_class(), map_decision() of security/selinux/ss/services.c (5.3). Same:
    what a policy does not define is allowed or denied as its handle_unknown says, or the policy is refused.
Owns: SelinuxMap.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.security.selinux.ss.policydb import PolicyDb, string_to_av_perm, string_to_security_class

if TYPE_CHECKING:
    from glasskernel.security.selinux.types import AvDecision

ALL_PERMISSIONS = 0xFFFFFFFF


class SelinuxMapping(NamedTuple):
    """struct selinux_mapping: a class of the kernel"""
    value: int                      # in the policy; 0: not there
    perms: tuple[int, ...]          # the policy's bit of permission k; 0: not there


@slotted
class SelinuxMap:
    """struct selinux_map"""
    mapping: list[SelinuxMapping]   # by the kernel's number; [0] is unused


def selinux_set_mapping(pol: PolicyDb, secclass_map: dict[str, tuple[str, ...]]) -> SelinuxMap:
    """How the kernel's classes are called in a policy. Raises EINVAL if the policy wants to know all of them."""
    out = [SelinuxMapping(0, ())]
    print_unknown_handle = False
    for name, permissions in secclass_map.items():
        value = string_to_security_class(pol, name.encode())
        bits: list[int] = []
        if not value:
            printk(pol.kernel, f"SELinux:  Class {name} not defined in policy.")
            print_unknown_handle = True
            if pol.reject_unknown:
                raise KernelError(EINVAL)
        for permission in permissions if value else ():
            bit = string_to_av_perm(pol, value, permission.encode())
            if not bit:
                printk(pol.kernel, f"SELinux:  Permission {permission} in class {name} not defined in policy.")
                print_unknown_handle = True
                if pol.reject_unknown:
                    raise KernelError(EINVAL)
            bits.append(bit)
        out.append(SelinuxMapping(value, tuple(bits)))
    if print_unknown_handle:
        printk(pol.kernel, "SELinux: the above unknown classes and permissions will be "
               + ("allowed" if pol.allow_unknown else "denied"))
    return SelinuxMap(out)


def unmap_class(map: SelinuxMap, tclass: int) -> int:
    """The policy's number of a class of the kernel; 0: it has none."""
    return map.mapping[tclass].value if tclass < len(map.mapping) else tclass


def map_class(map: SelinuxMap, pol_value: int) -> int:
    """The kernel's number of a class of the policy; 0: the kernel does not know it."""
    for tclass, mapping in enumerate(map.mapping):
        if tclass and mapping.value == pol_value:
            return tclass
    return 0


def map_decision(map: SelinuxMap, tclass: int, avd: AvDecision, allow_unknown: bool) -> AvDecision:
    """An answer in the policy's permissions, in the kernel's."""
    if tclass >= len(map.mapping):
        return avd
    allowed = auditallow = 0
    perms = map.mapping[tclass].perms
    auditdeny = ALL_PERMISSIONS << len(perms) & ALL_PERMISSIONS
    for k, bit in enumerate(perms):
        if avd.allowed & bit or (allow_unknown and not bit):
            allowed |= 1 << k
        if avd.auditallow & bit:
            auditallow |= 1 << k
        if avd.auditdeny & bit:
            auditdeny |= 1 << k
    return avd._replace(allowed=allowed, auditallow=auditallow, auditdeny=auditdeny)
