"""Packets between protocols and devices.

Linux: include/trace/events/net.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace
from glasskernel.net.skbuff import SKB_CAPACITY

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff

net = trace_system("net")


@notrace
def _name(skb: SkBuff) -> bytes:
    assert skb.dev is not None
    return skb.dev.name


@net.event_class(fields="int ret", print_fmt='"ret=%d", REC->ret')
def net_dev_rx_exit_template(ret: int) -> Values:
    return (ret,)


netif_receive_skb_list_exit = net_dev_rx_exit_template.define("netif_receive_skb_list_exit")
netif_rx_ni_exit = net_dev_rx_exit_template.define("netif_rx_ni_exit")
netif_rx_exit = net_dev_rx_exit_template.define("netif_rx_exit")
netif_receive_skb_exit = net_dev_rx_exit_template.define("netif_receive_skb_exit")
napi_gro_receive_exit = net_dev_rx_exit_template.define("napi_gro_receive_exit")
napi_gro_frags_exit = net_dev_rx_exit_template.define("napi_gro_frags_exit")


@net.event_class(
    fields=(
        "__data_loc char[] name; unsigned int napi_id; u16 queue_mapping; const void * skbaddr; bool vlan_tagged; "
        "u16 vlan_proto; u16 vlan_tci; u16 protocol; u8 ip_summed; u32 hash; bool l4_hash; unsigned int len; "
        "unsigned int data_len; unsigned int truesize; bool mac_header_valid; int mac_header; unsigned char nr_frags; "
        "u16 gso_size; u16 gso_type"),
    print_fmt=(
        '"dev=%s napi_id=%#x queue_mapping=%u skbaddr=%p vlan_tagged=%d vlan_proto=0x%04x vlan_tci=0x%04x '
        "protocol=0x%04x ip_summed=%d hash=0x%08x l4_hash=%d len=%u data_len=%u truesize=%u mac_header_valid=%d "
        'mac_header=%d nr_frags=%d gso_size=%d gso_type=%#x", __get_str(name), REC->napi_id, REC->queue_mapping, '
        "REC->skbaddr, REC->vlan_tagged, REC->vlan_proto, REC->vlan_tci, REC->protocol, REC->ip_summed, REC->hash, "
        "REC->l4_hash, REC->len, REC->data_len, REC->truesize, "
        "REC->mac_header_valid, REC->mac_header, REC->nr_frags, REC->gso_size, REC->gso_type"),
)
def net_dev_rx_verbose_template(skb: SkBuff) -> Values:
    """napi_id: of the device's first poller, as skbs do not note which one took them. hash: 0 until somebody asks."""
    info = skb.shinfo
    valid = skb.mac_header != SKB_CAPACITY
    dev = skb.dev
    napi_id = dev.napi_list[0].napi_id if dev is not None and dev.napi_list else 0
    return (_name(skb), napi_id, skb.queue_mapping, kaddr_of(skb), 0, 0, 0, skb.protocol, skb.ip_summed, skb.hash,
            skb.hash != 0, skb.len, skb.data_len, skb.truesize, valid, skb.mac_header - skb.data if valid else 0,
            len(info.frags), info.gso_size, info.gso_type)


netif_rx_ni_entry = net_dev_rx_verbose_template.define("netif_rx_ni_entry")
netif_rx_entry = net_dev_rx_verbose_template.define("netif_rx_entry")
netif_receive_skb_list_entry = net_dev_rx_verbose_template.define("netif_receive_skb_list_entry")
netif_receive_skb_entry = net_dev_rx_verbose_template.define("netif_receive_skb_entry")
napi_gro_receive_entry = net_dev_rx_verbose_template.define("napi_gro_receive_entry")
napi_gro_frags_entry = net_dev_rx_verbose_template.define("napi_gro_frags_entry")


@net.event_class(
    fields="void * skbaddr; unsigned int len; __data_loc char[] name",
    print_fmt='"dev=%s skbaddr=%p len=%u", __get_str(name), REC->skbaddr, REC->len',
)
def net_dev_template(skb: SkBuff) -> Values:
    return (kaddr_of(skb), skb.len, _name(skb))


netif_rx = net_dev_template.define("netif_rx")
netif_receive_skb = net_dev_template.define("netif_receive_skb")
net_dev_queue = net_dev_template.define("net_dev_queue")


@net.event(
    fields="__data_loc char[] name; __data_loc char[] driver; int queue_index",
    print_fmt='"dev=%s driver=%s queue=%d", __get_str(name), __get_str(driver), REC->queue_index',
)
def net_dev_xmit_timeout(dev: NetDevice, queue_index: int, driver: bytes) -> Values:
    return (dev.name, driver, queue_index)


@net.event(
    fields="void * skbaddr; unsigned int len; int rc; __data_loc char[] name",
    print_fmt='"dev=%s skbaddr=%p len=%u rc=%d", __get_str(name), REC->skbaddr, REC->len, REC->rc',
)
def net_dev_xmit(skb: SkBuff, rc: int, dev: NetDevice, skb_len: int) -> Values:
    return (kaddr_of(skb), skb_len, rc, dev.name)


@net.event(
    fields=(
        "__data_loc char[] name; u16 queue_mapping; const void * skbaddr; bool vlan_tagged; u16 vlan_proto; "
        "u16 vlan_tci; u16 protocol; u8 ip_summed; unsigned int len; unsigned int data_len; int network_offset; "
        "bool transport_offset_valid; int transport_offset; u8 tx_flags; u16 gso_size; u16 gso_segs; u16 gso_type"),
    print_fmt=(
        '"dev=%s queue_mapping=%u skbaddr=%p vlan_tagged=%d vlan_proto=0x%04x vlan_tci=0x%04x protocol=0x%04x '
        "ip_summed=%d len=%u data_len=%u network_offset=%d transport_offset_valid=%d transport_offset=%d tx_flags=%d "
        'gso_size=%d gso_segs=%d gso_type=%#x", __get_str(name), REC->queue_mapping, REC->skbaddr, REC->vlan_tagged, '
        "REC->vlan_proto, REC->vlan_tci, REC->protocol, REC->ip_summed, REC->len, REC->data_len, REC->network_offset, "
        "REC->transport_offset_valid, REC->transport_offset, REC->tx_flags, REC->gso_size, REC->gso_segs, "
        "REC->gso_type"),
)
def net_dev_start_xmit(skb: SkBuff, dev: NetDevice) -> Values:
    info = skb.shinfo
    valid = skb.transport_header != SKB_CAPACITY
    network = skb.network_header - skb.data if skb.network_header != SKB_CAPACITY else 0
    return (dev.name, skb.queue_mapping, kaddr_of(skb), 0, 0, 0, skb.protocol, skb.ip_summed, skb.len, skb.data_len,
            network, valid, skb.transport_header - skb.data if valid else 0, info.tx_flags, info.gso_size,
            info.gso_segs, info.gso_type)
