"""/proc/sys/net: variables of a network namespace.

Linux: net/sysctl_net.c, the proc_do* handlers of kernel/sysctl.c (5.3). Same: everybody sees those of the own
    namespace; paths begin with "net/". Differs: tables belong to the whole namespace's tree (net.sysctls), and are
    made of functions that get and set values of a dict or of an object.
Owns: Net.sysctls.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.proc_sysctl import CtlDir, CtlTable, __register_sysctl_table, numbers
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def register_net_sysctl(net: Net, path: bytes, table: list[CtlTable]) -> None:
    """Files of a directory below /proc/sys, b"net/ipv4/conf/lo". Context: task."""
    if net.sysctls is None:
        net.sysctls = CtlDir(net=net)
    assert path[:4] == b"net/"
    __register_sysctl_table(net.sysctls, path[4:], table)


def unregister_net_sysctl_table(net: Net, path: bytes) -> None:
    """Takes a directory and all in it away: a device is gone, or got another name."""
    *above, last = path[4:].split(b"/")
    dir = net.sysctls
    for name in above:
        dir = dir.entries.get(name)
        if dir is None:
            return
    dir.entries.pop(last, None)


# ---- entries ---------------------------------------------------------------------------------------
@notrace
def dointvec(name: bytes, values: Any, key: str, low: int = INT_MIN, high: int = INT_MAX, mode: int = 0o644, *,
             unit: int = 1, changed: Callable[[], None] | None = None) -> CtlTable:
    """proc_dointvec_minmax(): values[key] of a dict, or an attribute of an object. unit: what users' 1 is here.

    changed: called after a write. low, high: in the user's unit.
    """
    get_value, set_value = _access(values, key)

    def get(_kernel: Kernel) -> bytes:
        return b"%d" % (get_value() // unit)

    def set(_kernel: Kernel, text: bytes) -> None:
        words = numbers(text)
        if not words:
            return
        if not low <= words[0] <= high:
            raise KernelError(EINVAL)
        set_value(words[0] * unit)
        if changed is not None:
            changed()

    return CtlTable(name, mode, get, set if mode & 0o222 else None)


@notrace
def dointvec_jiffies(name: bytes, values: Any, key: str) -> CtlTable:
    """proc_dointvec_jiffies(): seconds for users, jiffies inside."""
    return dointvec(name, values, key, INT_MIN // HZ, INT_MAX // HZ, unit=HZ)


@notrace
def dointvec_ms_jiffies(name: bytes, values: Any, key: str) -> CtlTable:
    """proc_dointvec_ms_jiffies(): milliseconds for users, jiffies inside."""
    get_value, set_value = _access(values, key)

    def set(_kernel: Kernel, text: bytes) -> None:
        words = numbers(text)
        if words:
            set_value(-(-words[0] * HZ // 1000))

    return CtlTable(name, 0o644, lambda _kernel: b"%d" % (get_value() * 1000 // HZ), set)


@notrace
def dointvecs(name: bytes, values: Any, key: str, low: int = INT_MIN, high: int = INT_MAX, mode: int = 0o644,
              check: Callable[[list[int]], bool] | None = None) -> CtlTable:
    """A vector: a list or tuple of ints, tabs between. Fewer numbers change the first ones. not check(new): EINVAL."""
    get_value, set_value = _access(values, key)

    def get(_kernel: Kernel) -> bytes:
        return b"\t".join(b"%d" % value for value in get_value())

    def set(_kernel: Kernel, text: bytes) -> None:
        old = get_value()
        words = numbers(text)[: len(old)]
        new = [*words, *old[len(words) :]]
        if any(not low <= value <= high for value in words) or (check is not None and not check(new)):
            raise KernelError(EINVAL)
        set_value(type(old)(new))

    return CtlTable(name, mode, get, set if mode & 0o222 else None)


@notrace
def _access(values: Any, key: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    if isinstance(values, dict):
        return lambda: values[key], lambda value: values.__setitem__(key, value)
    return lambda: getattr(values, key), lambda value: setattr(values, key, value)
