"""The network comes up when somebody first needs it.

Linux: the initcalls of net/ and drivers/net, and request_module("net-pf-N") of __sock_create(). Same: their order, and
families as modules. Differs: nothing of the network is imported at boot, as Linux distributions build it as modules: a
program that opens no socket pays nothing. net_state() is for whoever needs sockets, start_network() for whoever needs
devices; both do their work once.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from glasskernel.lib.errno import ENOTTY, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.types import AF_INET, AF_NETLINK, AF_PACKET, AF_UNIX, Net, NetState

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

# AF_* -> module, its initcall, and whether it needs devices
FAMILIES = {
    AF_UNIX: ("net.unix.af_unix", "af_unix_init", False),
    AF_INET: ("net.ipv4.inet_init", "inet_init", True),
    AF_NETLINK: ("net.netlink.af_netlink", "netlink_proto_init", True),
    AF_PACKET: ("net.packet.af_packet", "packet_init", True),
}
# in this order: devices, then the protocols that listen to them
DEVICE_INITCALLS = (
    ("net.unix.net_init", "unix_pernet_init"),
    ("net.core.proto_proc", "proto_init"),
    ("net.core.dev", "net_dev_init"),
    ("net.core.net_procfs", "dev_proc_init"),
    ("net.core.sysctl_net_core", "sysctl_core_init"),
    ("net.netlink.af_netlink", "netlink_proto_init"),
    ("net.core.rtnetlink", "rtnetlink_init"),
    ("net.core.rtnl_setlink", "rtnl_link_init"),
    ("drivers.net.loopback", "loopback_init"),
    ("net.ipv4.inet_init", "inet_init"),
    ("net.core.rtnl_handlers", "rtnl_handlers_init"),
    ("net.ipv4.ip_offload", "ipv4_offload_init"),
    ("net.ipv4.sockstat", "sockstat_init"),
    ("drivers.net.e1000.main", "e1000_init_module"),
    ("net.ipv4.ipconfig", "ip_auto_config"),
)
SIOC = 0x8900                            # requests of sockets: include/uapi/linux/sockios.h
INIT_NET_INUM = 4026531992               # of the first kernel that has this many namespaces, as ls -l /proc/1/ns shows


@notrace
def net_state(kernel: Kernel) -> NetState:
    """kernel.net, made at the first call: sockets work afterwards."""
    state = kernel.net
    if state is None:
        state = kernel.net = NetState(Net(kernel, INIT_NET_INUM))
        state.net_namespace_list.append(state.init_net)
        _initcall(kernel, "net.socket", "sock_init")
        state.dev_ioctl = dev_ioctl
    return state


@notrace
def task_net(task: TaskStruct) -> Net:
    """The network namespace of a task that lives: the initial one unless it unshared."""
    net: Net | None = task.nsproxy.net_ns
    return net if net is not None else net_state(task.kernel).init_net


@notrace
def dev_ioctl(net: Net, cmd: int, arg: int) -> int:
    """Somebody asks for interfaces by ioctl(2): the module is loaded, and says what to do from now on.

    Errors: ENOTTY for what is no such request, as isatty(3)'s TCGETS.
    """
    if cmd >> 8 != SIOC >> 8:
        raise KernelError(ENOTTY)
    from glasskernel.net.core.dev_ioctl import dev_ioctl

    state = start_network(net.kernel)
    state.dev_ioctl = dev_ioctl
    return dev_ioctl(net, cmd, arg)


@notrace
def start_network(kernel: Kernel) -> NetState:
    """Devices, their protocols and their addresses: done at the first call. Context: task; may sleep."""
    state = net_state(kernel)
    if not state.devices_started:
        state.devices_started = True
        request_family(kernel, AF_UNIX)          # no module, in most kernels: /proc/net/unix is always there
        for module, name in DEVICE_INITCALLS:
            _initcall(kernel, module, name)
    return state


@notrace
def request_family(kernel: Kernel, family: int) -> None:
    """request_module("net-pf-N"): afterwards the family is registered, if there is one."""
    state = net_state(kernel)
    if family not in FAMILIES:
        return
    module, name, needs_devices = FAMILIES[family]
    if needs_devices:
        start_network(kernel)
    if family not in state.net_families:
        _initcall(kernel, module, name)


@notrace
def _initcall(kernel: Kernel, module: str, name: str) -> None:
    getattr(import_module(f"glasskernel.{module}"), name)(kernel)
