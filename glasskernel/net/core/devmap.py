"""Maps of devices, for bpf_redirect_map().

Linux: kernel/bpf/devmap.c (5.3). Here, because devices are above BPF. Same: keys are indices, values numbers of
interfaces (0: none) in the namespace of who puts them in; a device that goes leaves all maps.
Owns: BpfDtab.netdev_map: devices, a reference each. Gaps: bulks (xdp_redirect.py sends frame by frame).
Context: task; lookups: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.arraymap import array_map_get_next_key
from glasskernel.kernel.bpf.memory import bpf_map_area_alloc, bpf_map_area_free, bpf_map_charge_init
from glasskernel.kernel.bpf.objects import bpf_state
from glasskernel.kernel.bpf.types import (
    BPF_EXIST,
    BPF_F_NUMA_NODE,
    BPF_F_RDONLY,
    BPF_F_WRONLY,
    BPF_MAP_TYPE_DEVMAP,
    BPF_NOEXIST,
    BpfMap,
    BpfMapOps,
)
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.lib.errno import E2BIG, EEXIST, EINVAL, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import __dev_get_by_index, net_of, register_netdevice_notifier
from glasskernel.net.init import start_network, task_net
from glasskernel.net.netdevice import NETDEV_UNREGISTER, NetDevice, dev_hold, dev_put

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.syscall_map import MapAttr

_SIZEOF_DTAB = 256                       # struct bpf_dtab


class BpfDtab(BpfMap):
    """struct bpf_dtab"""

    __slots__ = ("netdev_map",)

    def __init__(self, kernel: Kernel, attr: MapAttr) -> None:
        super().__init__(kernel, BPF_MAP_TYPE_DEVMAP, attr.key_size, attr.value_size, attr.max_entries,
                         attr.flags_to_keep)
        self.netdev_map: dict[int, NetDevice] = {}


def dev_map_alloc(kernel: Kernel, attr: MapAttr) -> BpfMap:
    """->map_alloc(). Raises EPERM, EINVAL, E2BIG."""
    if not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if (not attr.max_entries or attr.key_size != 4 or attr.value_size != 4
            or attr.map_flags & ~(BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY)):
        raise KernelError(EINVAL)
    dtab = BpfDtab(kernel, attr)
    size = _SIZEOF_DTAB + 8 * attr.max_entries
    dtab.memory_pages, dtab.user = bpf_map_charge_init(kernel, size)
    dtab.kaddr = bpf_map_area_alloc(kernel, size)
    start_network(kernel)
    chain = net_of(kernel).netdev_chain
    if dev_map_notification not in chain:
        register_netdevice_notifier(kernel, dev_map_notification)
    return dtab


def dev_map_free(map: BpfMap) -> None:
    """->map_free()"""
    assert isinstance(map, BpfDtab)
    for dev in map.netdev_map.values():
        dev_put(dev)
    map.netdev_map = {}
    bpf_map_area_free(map.kernel, map.kaddr)


def __dev_map_lookup_elem(map: BpfDtab, key: int) -> NetDevice | None:
    """The device at an index. Context: softirq."""
    return map.netdev_map.get(key)


def dev_map_lookup_elem(map: BpfMap, key: bytes) -> bytes | None:
    """->map_copy_value()"""
    assert isinstance(map, BpfDtab)
    dev = __dev_map_lookup_elem(map, int.from_bytes(key, "little"))
    return dev.ifindex.to_bytes(4, "little") if dev is not None else None


def dev_map_update_elem(map: BpfMap, key: bytes, value: bytes, map_flags: int) -> None:
    """->map_update_elem(). Raises EINVAL, E2BIG, EEXIST."""
    assert isinstance(map, BpfDtab)
    index, ifindex = int.from_bytes(key, "little"), int.from_bytes(value, "little")
    if map_flags > BPF_EXIST:
        raise KernelError(EINVAL)
    if index >= map.max_entries:
        raise KernelError(E2BIG)
    if map_flags == BPF_NOEXIST:
        raise KernelError(EEXIST)
    dev = __dev_get_by_index(task_net(current()), ifindex) if ifindex else None
    if ifindex and dev is None:
        raise KernelError(EINVAL)
    old = map.netdev_map.pop(index, None)
    if dev is not None:
        dev_hold(dev)
        map.netdev_map[index] = dev
    if old is not None:
        dev_put(old)


def dev_map_delete_elem(map: BpfMap, key: bytes) -> None:
    """->map_delete_elem(). Raises EINVAL."""
    assert isinstance(map, BpfDtab)
    index = int.from_bytes(key, "little")
    if index >= map.max_entries:
        raise KernelError(EINVAL)
    old = map.netdev_map.pop(index, None)
    if old is not None:
        dev_put(old)


@notrace
def dev_map_notification(event: int, netdev: NetDevice) -> None:
    """Of the device chain."""
    if event != NETDEV_UNREGISTER:
        return
    for map in bpf_state(netdev.net.kernel).map_idr.values():
        if isinstance(map, BpfDtab):
            for index in [index for index, dev in map.netdev_map.items() if dev is netdev]:
                del map.netdev_map[index]
                dev_put(netdev)


dev_map_ops = BpfMapOps(
    dev_map_alloc, dev_map_free, map_copy_value=dev_map_lookup_elem, map_update_elem=dev_map_update_elem,
    map_delete_elem=dev_map_delete_elem, map_get_next_key=array_map_get_next_key)
