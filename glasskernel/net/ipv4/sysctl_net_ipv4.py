"""/proc/sys/net/ipv4, without TCP's.

Linux: net/ipv4/sysctl_net_ipv4.c, and the tables of devinet.c, neighbour.c, route.c, ip_fragment.c (5.3). Same: names,
values and limits. Differs: TCP's are tcp's own. A variable that nothing reads is absent, but for those in conf/:
scripts set them. Gaps: of those do nothing: accept_redirects, accept_source_route, bc_forwarding, bootp_relay,
disable_*, *igmp*, mc_forwarding, medium_id, proxy_arp_pvlan, secure_redirects, shared_media, src_valid_mark, tag.
Owns: NetnsIpv4.sysctl.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.proc_sysctl import CtlTable
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.in_device import IPV4_DEVCONF, in_dev_get, ipv4_of
from glasskernel.net.ipv4.route_cache import rt_cache_flush
from glasskernel.net.sysctl_net import (
    INT_MAX,
    dointvec,
    dointvec_jiffies,
    dointvec_ms_jiffies,
    dointvecs,
    register_net_sysctl,
    unregister_net_sysctl_table,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.ipv4.types import InDevice
    from glasskernel.net.types import Net

# what a namespace starts with
DEFAULTS: dict[str, Any] = {
    "icmp_echo_ignore_all": 0, "icmp_echo_ignore_broadcasts": 1,
    "icmp_ratelimit": 1000, "icmp_ratemask": 0x1818, "igmp_max_memberships": 20, "ip_default_ttl": 64,
    "ip_early_demux": 1, "ip_forward": 0, "ip_local_port_range": (32768, 60999), "ip_local_reserved_ports": frozenset(),
    "ip_no_pmtu_disc": 0, "ip_nonlocal_bind": 0, "ip_unprivileged_port_start": 1024, "ping_group_range": (1, 0),
    "udp_rmem_min": 4096, "udp_wmem_min": 4096,
}
NEIGH_NUMBERS = ("mcast_solicit", "ucast_solicit", "app_solicit", "mcast_resolicit", "proxy_qlen", "unres_qlen_bytes")
NEIGH_SECONDS = ("delay_first_probe_time", "gc_stale_time")
NEIGH_USER_HZ = ("anycast_delay", "proxy_delay", "locktime")


def ipv4_sysctl_init_net(net: Net) -> None:
    """The files of a namespace. Its values were set before."""
    values = ipv4_of(net).sysctl
    frags = ipv4_of(net).frags
    inet = inet_of(net)
    register_net_sysctl(net, b"net/ipv4", [
        dointvec(b"icmp_echo_ignore_all", values, "icmp_echo_ignore_all"),
        dointvec(b"icmp_echo_ignore_broadcasts", values, "icmp_echo_ignore_broadcasts"),
        dointvec(b"icmp_ratelimit", values, "icmp_ratelimit", 0),
        dointvec(b"icmp_ratemask", values, "icmp_ratemask"),
        dointvec(b"igmp_max_memberships", values, "igmp_max_memberships"),
        dointvec(b"ip_default_ttl", values, "ip_default_ttl", 1, 255),
        dointvec(b"ip_early_demux", values, "ip_early_demux"),
        dointvec(b"ip_forward", values, "ip_forward", changed=lambda: inet_forward_change(net)),
        dointvecs(b"ip_local_port_range", values, "ip_local_port_range", 1, 65535,
                  check=lambda new: new[0] <= new[1] and new[0] >= values["ip_unprivileged_port_start"]),
        CtlTable(b"ip_local_reserved_ports", 0o644, lambda _kernel: _ranges(values["ip_local_reserved_ports"]),
                 lambda _kernel, text: values.__setitem__("ip_local_reserved_ports", _parse_ranges(text))),
        dointvec(b"ip_no_pmtu_disc", values, "ip_no_pmtu_disc"),
        dointvec(b"ip_nonlocal_bind", values, "ip_nonlocal_bind"),
        dointvec(b"ip_unprivileged_port_start", values, "ip_unprivileged_port_start", 0, 65535),
        dointvecs(b"ping_group_range", values, "ping_group_range", 0, 0xFFFFFFFE),
        dointvec(b"udp_rmem_min", values, "udp_rmem_min", 1),
        dointvec(b"udp_wmem_min", values, "udp_wmem_min", 1),
        dointvec(b"ipfrag_high_thresh", frags, "high_thresh", 0),
        dointvec(b"ipfrag_low_thresh", frags, "low_thresh", 0),
        dointvec_jiffies(b"ipfrag_time", frags, "timeout"),
    ])
    register_net_sysctl(net, b"net/ipv4/route", [
        CtlTable(b"flush", 0o200, lambda _kernel: b"", lambda _kernel, _text: rt_cache_flush(net))])
    if net.inum == net.kernel.net.init_net.inum:  # type: ignore[union-attr]
        register_net_sysctl(net, b"net/ipv4", [
            dointvec(b"icmp_msgs_per_sec", inet, "icmp_msgs_per_sec", 0),
            dointvec(b"icmp_msgs_burst", inet, "icmp_msgs_burst", 0),
            dointvecs(b"udp_mem", net.kernel.net.sysctl_mem, "UDP", 0, INT_MAX)])  # type: ignore[union-attr]
        register_net_sysctl(net, b"net/ipv4/route", [
            dointvec(b"min_pmtu", inet, "ip_rt_min_pmtu", 552), dointvec(b"min_adv_mss", inet, "ip_rt_min_advmss"),
            dointvec_jiffies(b"mtu_expires", inet, "ip_rt_mtu_expires")])
        _register_neigh(net, b"default", inet.arp_tbl.parms, [
            dointvec(b"gc_thresh1", inet.arp_tbl, "gc_thresh1", 0),
            dointvec(b"gc_thresh2", inet.arp_tbl, "gc_thresh2", 0),
            dointvec(b"gc_thresh3", inet.arp_tbl, "gc_thresh3", 0),
            dointvec_jiffies(b"gc_interval", inet.arp_tbl, "gc_interval")])
    __devinet_sysctl_register(net, b"all", ipv4_of(net).devconf_all)
    __devinet_sysctl_register(net, b"default", ipv4_of(net).devconf_dflt)


def ipv4_sysctl_exit_net(net: Net) -> None:
    unregister_net_sysctl_table(net, b"net/ipv4")


@notrace
def _ranges(ports: frozenset[int]) -> bytes:
    """1-3,7 (proc_do_large_bitmap())"""
    parts: list[list[int]] = []
    for port in sorted(ports):
        if parts and parts[-1][1] == port - 1:
            parts[-1][1] = port
        else:
            parts.append([port, port])
    return b",".join(b"%d" % a if a == b else b"%d-%d" % (a, b) for a, b in parts)


@notrace
def _parse_ranges(text: bytes) -> frozenset[int]:
    ports: set[int] = set()
    for part in text.strip().split(b","):
        if not part:
            continue
        first, dash, last = part.partition(b"-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) > 65535:
            raise KernelError(EINVAL)
        ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)


def inet_forward_change(net: Net) -> None:
    """net.ipv4.ip_forward is that of all devices, and of those that come."""
    ipv4 = ipv4_of(net)
    on = ipv4.sysctl["ip_forward"]
    ipv4.devconf_all["forwarding"] = ipv4.devconf_dflt["forwarding"] = on
    for dev in net.dev_by_index.values():
        in_dev = in_dev_get(dev)
        if in_dev is not None:
            in_dev.cnf["forwarding"] = on
    rt_cache_flush(net)


# ---- conf/ and neigh/ ----------------------------------------------------------------------------------------------
def devinet_sysctl_register(idev: InDevice) -> None:
    """A device's files."""
    dev = idev.dev
    idev.sysctl_name = dev.name
    __devinet_sysctl_register(dev.net, dev.name, idev.cnf)
    _register_neigh(dev.net, dev.name, idev.arp_parms, [])


def devinet_sysctl_unregister(net: Net, name: bytes) -> None:
    unregister_net_sysctl_table(net, b"net/ipv4/conf/" + name)
    unregister_net_sysctl_table(net, b"net/ipv4/neigh/" + name)


def __devinet_sysctl_register(net: Net, name: bytes, cnf: dict[str, int]) -> None:
    def changed() -> None:
        rt_cache_flush(net)

    register_net_sysctl(net, b"net/ipv4/conf/" + name,
                        [dointvec(key.encode(), cnf, key, changed=changed) for key in IPV4_DEVCONF])


@notrace
def _register_neigh(net: Net, name: bytes, parms: Any, more: list[CtlTable]) -> None:
    """neigh_sysctl_register()"""
    data = parms.data
    table = [dointvec(key.encode(), data, key, 0, INT_MAX) for key in NEIGH_NUMBERS]
    table += [dointvec_jiffies(key.encode(), data, key) for key in NEIGH_SECONDS]
    table += [_userhz(key, data) for key in NEIGH_USER_HZ]
    table += [dointvec_ms_jiffies(b"retrans_time_ms", data, "retrans_time"),
              dointvec_ms_jiffies(b"base_reachable_time_ms", data, "base_reachable_time")]
    register_net_sysctl(net, b"net/ipv4/neigh/" + name, table + more)


@notrace
def _userhz(key: str, data: dict[str, int]) -> CtlTable:
    """proc_dointvec_userhz_jiffies(): hundredths of a second."""
    def set(_kernel: Kernel, text: bytes) -> None:
        words = text.split()
        if not words or not words[0].isdigit():
            raise KernelError(EINVAL)
        data[key] = int(words[0]) * HZ // 100

    return CtlTable(key.encode(), 0o644, lambda _kernel: b"%d" % (data[key] * 100 // HZ), set)
