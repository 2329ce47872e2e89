"""Segmentation and GRO of TCP, against a peer at the other end of the cable that is not a Linux."""
from __future__ import annotations

import hashlib
import itertools

import pytest

from glasskernel.lib.checksum import csum_partial, csum_tcpudp_magic
from glasskernel.machine.gateway import GATEWAY_IP, TCP, Gateway

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MSS = 1460


class Server(Gateway):
    """The router, with one TCP port: it takes what it is sent, and then sends `answer` in bursts of back-to-back segments."""

    def __init__(self, nic, answer=b"", burst=8):
        super().__init__(nic)
        self.answer, self.burst = answer, burst
        self.received, self.sizes = bytearray(), []
        self.sent, self.isn = 0, 1000
        self.bad_checksums = 0

    def _reset(self, mac, packet, data):
        ip = packet[12:16]
        seq = int.from_bytes(data[4:8], "big")
        ack = int.from_bytes(data[8:12], "big")
        flags, payload = data[13], data[(data[12] >> 4) * 4 :]
        source, dest = int.from_bytes(ip, "big"), int.from_bytes(GATEWAY_IP, "big")
        if csum_tcpudp_magic(source, dest, len(data), TCP, csum_partial(data)):
            self.bad_checksums += 1
            return
        self.ports = data[2:4] + data[0:2]
        if flags & RST:
            return
        if flags & SYN:
            self.next = seq + 1
            self._tcp(mac, ip, self.isn, SYN | ACK, options=b"\2\4" + MSS.to_bytes(2, "big"))
            return
        if payload and seq == self.next:
            self.received += payload
            self.sizes.append(len(payload))
            self.next = seq + len(payload) & 0xFFFFFFFF
        acked = ack - self.isn - 1
        if flags & FIN and seq + len(payload) == self.next:
            self.next += 1
            self._tcp(mac, ip, self.isn + 1 + self.sent, ACK)
            self._burst(mac, ip)
        elif payload:
            self._tcp(mac, ip, self.isn + 1 + self.sent, ACK)
        elif self.answer and acked == self.sent:
            self._burst(mac, ip)

    def _burst(self, mac, ip):
        for _ in range(self.burst):
            part = self.answer[self.sent : self.sent + MSS]
            last = self.sent + len(part) == len(self.answer)
            if part or last:
                self._tcp(mac, ip, self.isn + 1 + self.sent, ACK | (PSH | FIN if last else 0), part)
                self.sent += len(part) + last

    def _tcp(self, mac, ip, seq, flags, payload=b"", options=b""):
        header = (self.ports + (seq & 0xFFFFFFFF).to_bytes(4, "big") + self.next.to_bytes(4, "big")
                  + bytes((0x50 + len(options) * 4, flags)) + b"\xff\xff")
        payload = options + payload
        segment = header + b"\0\0\0\0" + payload
        source, dest = int.from_bytes(GATEWAY_IP, "big"), int.from_bytes(ip, "big")
        csum = csum_tcpudp_magic(source, dest, len(segment), TCP, csum_partial(segment))
        self._send(mac, ip, TCP, header + csum.to_bytes(2, "big") + b"\0\0" + payload)


CLIENT = """
import hashlib, socket
s = socket.create_connection(("10.0.2.2", 5000))
data = bytes(range(251)) * 400
s.sendall(data)
s.shutdown(socket.SHUT_WR)
got = bytearray()
while part := s.recv(65536):
    got += part
print(len(got), hashlib.sha256(got).hexdigest())
"""


@pytest.fixture
def serve(boot):
    def go(answer=b"", **faults):
        kernel = boot()
        nic = kernel.machine.nic
        server = nic.peer = Server(nic, answer)
        for name, value in faults.items():
            setattr(nic.faults, name, value)
        return kernel, server, kernel.run(["python3", "-c", CLIENT])

    return go


def test_a_stream_is_cut_into_segments_for_the_card(serve):
    kernel, server, done = serve()
    assert done.status == 0, done.stderr
    assert bytes(server.received) == bytes(range(251)) * 400
    assert max(server.sizes) == MSS
    assert not server.bad_checksums
    from_protocol = kernel.net.init_net.dev_by_name[b"eth0"].qdisc.packets
    assert from_protocol >= len(server.sizes)                    # the discipline counts segments


def test_segments_that_came_together_go_up_together(serve):
    answer = bytes(range(250, 0, -1)) * 400
    kernel, server, done = serve(answer)
    assert done.status == 0, done.stderr
    assert done.stdout.decode().split() == [str(len(answer)), hashlib.sha256(answer).hexdigest()]
    assert kernel.net.init_net.mib.tcp["InSegs"] < len(server.sizes) + len(answer) // MSS
    eth0 = kernel.net.init_net.dev_by_name[b"eth0"]
    assert eth0.priv.hw_csum_good > len(answer) // MSS and not eth0.priv.hw_csum_err


def test_a_wrong_checksum_is_found_by_the_card(boot):
    kernel = boot()
    nic = kernel.machine.nic
    listener = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.0.2.15", 7))
s.sendto(b"go", ("10.0.2.2", 9))
print(s.recv(100))
"""

    class Sender(Gateway):
        def _local(self, mac, packet):
            if packet[9] != 17:
                return super()._local(mac, packet)
            for text, damage in ((b"damaged", 1), (b"sound", 0)):
                header = packet[22:24] + packet[20:22] + (8 + len(text)).to_bytes(2, "big")
                sum_ = csum_tcpudp_magic(0x0A000202, 0x0A00020F, 8 + len(text), 17, csum_partial(header + text))
                self._send(mac, packet[12:16], 17, header + (sum_ ^ damage).to_bytes(2, "big") + text)

    nic.peer = Sender(nic)
    done = kernel.run(["python3", "-c", listener])
    assert done.stdout == b"b'sound'\n", done.stderr
    adapter = kernel.net.init_net.dev_by_name[b"eth0"].priv
    assert (adapter.hw_csum_err, adapter.hw_csum_good) == (1, 1)
    assert kernel.net.init_net.mib.udp["InCsumErrors"] == 1


def test_the_stack_from_the_card_to_a_poller(boot):
    """The seed's chain sshd-wakeup-stack: who wakes a program that polls a connection (A273, A274)."""
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "trace"))
    from call_graph import CallGraph

    kernel = boot()
    nic = kernel.machine.nic
    nic.peer = Server(nic, b"hello")
    with CallGraph(kernel) as graph:
        done = kernel.run(["python3", "-c", "import select, socket\ns = socket.create_connection(('10.0.2.2', 5000))\n"
                           "p = select.poll()\np.register(s, select.POLLIN)\nprint(p.poll())"])
    assert done.status == 0, done.stderr
    chain = ["do_IRQ", "irq_exit", "__do_softirq", "net_rx_action", "e1000_clean", "napi_complete_done", "gro_normal_list",
             "netif_receive_skb_list_internal", "__netif_receive_skb_list_core", "ip_list_rcv", "ip_sublist_rcv",
             "ip_sublist_rcv_finish", "ip_local_deliver", "ip_local_deliver_finish", "ip_protocol_deliver_rcu",
             "tcp_v4_rcv", "tcp_v4_do_rcv", "tcp_rcv_established", "tcp_data_queue", "tcp_data_ready", "sock_def_readable",
             "__wake_up_sync_key", "__wake_up_common_lock", "__wake_up_common", "pollwake", "default_wake_function",
             "try_to_wake_up", "ttwu_do_activate", "enqueue_task_fair"]
    missing = [(a, b) for a, b in itertools.pairwise(chain) if not graph.reaches(a, b, 2)]
    assert not missing
