"""The tracepoints net/*, napi/* and skb/*: their texts, in the order in which Linux has them."""
from __future__ import annotations

import re

SEND = r"""
import socket
t = "/sys/kernel/tracing/"
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(("lo", 0x88b5))
for system in ("net", "napi", "skb"):
    open(t + "events/%s/enable" % system, "w").write("1")
open(t + "tracing_on", "w").write("1")
s.send(bytes(12) + b"\x88\xb5" + b"hello")
s.setblocking(False)
s.recv(100)
open(t + "tracing_on", "w").write("0")
print(open(t + "trace").read())
"""
VERBOSE = (r"vlan_tagged=0 vlan_proto=0x0000 vlan_tci=0x0000 protocol=0x88b5 ip_summed=0 hash=0x[0-9a-f]{8} l4_hash=0 len=5 "
           r"data_len=0 truesize=\d+ mac_header_valid=1 mac_header=-14 nr_frags=0 gso_size=0 gso_type=0x0")
# after the first six fields of a line of the trace
EXPECTED = [
    r"net_dev_queue: dev=lo skbaddr=(\w+) len=19",
    r"net_dev_start_xmit: dev=lo queue_mapping=0 skbaddr=(\w+) vlan_tagged=0 vlan_proto=0x0000 vlan_tci=0x0000 "
    r"protocol=0x88b5 ip_summed=0 len=19 data_len=0 network_offset=14 transport_offset_valid=0 "
    r"transport_offset=\d+ tx_flags=0 gso_size=0 gso_segs=0 gso_type=0x0",
    rf"netif_rx_entry: dev=lo napi_id=0x\w+ queue_mapping=0 skbaddr=(\w+) {VERBOSE}",
    r"netif_rx: dev=lo skbaddr=(\w+) len=5",
    r"netif_rx_exit: ret=0",
    r"net_dev_xmit: dev=lo skbaddr=(\w+) len=19 rc=0",
    r"netif_receive_skb: dev=lo skbaddr=(\w+) len=5",
    r"napi_poll: napi poll on napi struct \w+ for device \(no_device\) work 1 budget 64",
    r"skb_copy_datagram_iovec: skbaddr=\w+ len=19",
]


def test_the_way_through_lo(boot):
    kernel = boot()
    done = kernel.run(["python3", "-c", "import fcntl, socket, struct\ns = socket.socket(socket.AF_PACKET, 2, 0)\n"
                       "fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))\n" + SEND])
    assert done.status == 0, done.stderr
    lines = [re.sub(r"^.*?\d+\.\d+: ", "", line) for line in done.stdout.decode().splitlines() if not line.startswith("#")]
    position, addresses = 0, set()
    for pattern in EXPECTED:
        matches = [(i, re.fullmatch(pattern, line)) for i, line in enumerate(lines) if i >= position]
        found = next(((i, m) for i, m in matches if m), None)
        assert found, (pattern, lines)
        position = found[0] + 1
        addresses |= set(found[1].groups())
    assert len(addresses) == 1


def test_the_card_s_interrupt_in_the_graph_tracer(boot):
    """The seed's listing: softirq_raise vec=3 appears inside __raise_softirq_irqoff, below e1000_intr (A138, B289)."""
    done = boot().run(["/bin/bash", "-c", """
        ping -c 1 10.0.2.2 >/dev/null; cd /sys/kernel/tracing
        echo do_IRQ >set_graph_function; echo 1 >events/irq/softirq_raise/enable; echo function_graph >current_tracer
        ping -c 1 10.0.2.2 >/dev/null; echo 0 >tracing_on; cat trace"""])
    lines = [line.partition("|")[2].strip() for line in done.stdout.decode().splitlines()]
    text = "\n".join(lines)
    pattern = (r"do_IRQ\(\) \{\nirq_enter\(\) \{\n(?:.*\n)*?handle_irq\(\) \{\n(?:.*\n)*?e1000_intr\(\) \{\n"
               r"(?:.*\n)*?napi_schedule_prep\(\);\n__napi_schedule\(\) \{\n(?:.*\n)*?"
               r"/\* softirq_raise: vec=3 \[action=NET_RX\] \*/\n")
    assert re.search(pattern, text), text[:3000]
