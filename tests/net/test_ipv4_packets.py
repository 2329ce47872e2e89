"""IPv4 packet by packet: what comes over the cable, right and wrong, and what goes back."""
from __future__ import annotations

import random
import struct

import pytest

from glasskernel.kernel.sched.core import msleep
from glasskernel.lib.checksum import csum_fold, csum_partial, csum_tcpudp_magic

ME, GATEWAY = 0x0A00020F, 0x0A000202
PEER = bytes.fromhex("52550a000202")
ICMP, UDP = 1, 17


class Wire:
    """The other end of the cable. sent: IP packets that left the machine."""

    def __init__(self, kernel, net):
        self.kernel, self.net, self.nic = kernel, net, kernel.machine.nic
        self.sent = []
        self.nic.watch.append(self._see)

    def _see(self, direction, data):
        if direction == "sent" and data[12:14] == b"\x08\x00":
            length = int.from_bytes(data[16:18], "big")
            self.sent.append(data[14 : 14 + length])

    def send(self, packet, dst=None, wait=8):
        self.nic.inject((dst or self.nic.mac) + PEER + b"\x08\x00" + packet)
        if wait:
            msleep(wait)

    def ip(self, name):
        return self.net.mib.ip[name]


def ip(data, *, protocol=UDP, saddr=GATEWAY, daddr=ME, ident=1, frag=0, ttl=64, ihl=5, version=4, length=None, check=None,
       options=b""):
    head = struct.pack(">BBHHHBBHII", version << 4 | ihl + len(options) // 4, 0,
                       20 + len(options) + len(data) if length is None else length, ident, frag, ttl, protocol, 0, saddr,
                       daddr) + options
    sum_ = csum_fold(csum_partial(head)) if check is None else check
    return head[:10] + sum_.to_bytes(2, "big") + head[12:] + data


def icmp(kind, code, rest, data=b""):
    message = struct.pack(">BBHI", kind, code, 0, rest) + data
    return message[:2] + csum_fold(csum_partial(message)).to_bytes(2, "big") + message[4:]


def udp(data, sport=1000, dport=2000, *, check=None, saddr=GATEWAY, daddr=ME):
    datagram = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    if check is None:
        check = csum_tcpudp_magic(saddr, daddr, len(datagram), UDP, csum_partial(datagram))
    return datagram[:6] + check.to_bytes(2, "big") + datagram[8:]


@pytest.fixture
def wire(in_thread):
    """wire(function): function(Wire) runs in a kernel thread of a machine whose network is up."""
    return lambda function, **machine: in_thread(lambda kernel, net: function(Wire(kernel, net)), **machine)


def test_a_ping_is_answered_with_its_own_bytes(wire):
    def body(w):
        w.send(ip(icmp(8, 0, 0x12340001, b"abcdefgh" * 20), protocol=ICMP))
        (reply,) = w.sent
        assert reply[9] == ICMP and reply[12:20] == struct.pack(">II", ME, GATEWAY)
        assert csum_fold(csum_partial(reply[:20])) == 0 and csum_fold(csum_partial(reply[20:])) == 0
        assert reply[20:22] == b"\0\0" and reply[24:] == struct.pack(">I", 0x12340001) + b"abcdefgh" * 20
        w.send(ip(icmp(13, 0, 7, bytes(12)), protocol=ICMP))
        assert w.sent[1][20] == 14 and len(w.sent[1]) == 40
        w.net.ipv4.sysctl["icmp_echo_ignore_all"] = 1
        w.send(ip(icmp(8, 0, 1), protocol=ICMP))
        assert len(w.sent) == 2

    wire(body)


def test_broken_headers_are_counted_and_nobody_is_told(wire):
    def body(w):
        ping = icmp(8, 0, 1, b"x" * 40)
        for packet in (ip(ping, protocol=ICMP, version=6), ip(ping, protocol=ICMP, ihl=4), ip(ping, protocol=ICMP, ihl=15),
                       ip(ping, protocol=ICMP, check=0x1234), ip(ping, protocol=ICMP, length=19), b"\x45" + bytes(9)):
            w.send(packet)
        assert w.ip("InHdrErrors") == 6
        w.send(ip(ping, protocol=ICMP, length=500))
        assert w.net.mib.ip_ext["InTruncatedPkts"] == 1
        w.send(ip(icmp(8, 0, 1)[:-1] + b"\x55", protocol=ICMP))
        assert w.net.mib.icmp["InCsumErrors"] == 1
        w.send(ip(ping, protocol=ICMP, daddr=0x0A000233))               # not ours, and we do not forward
        assert w.ip("InAddrErrors") == 1
        w.send(ip(ping, protocol=ICMP, saddr=0x7F000001))               # martians
        w.send(ip(ping, protocol=ICMP, saddr=0xE0000001))
        w.send(ip(ping, protocol=ICMP, saddr=ME))
        w.send(ip(ping, protocol=ICMP, daddr=0x7F000001))
        w.send(ip(icmp(8, 0, 1), protocol=ICMP, daddr=0x0A0002FF), dst=b"\xff" * 6)      # a broadcast ping
        assert w.sent == []

    wire(body)


def test_who_is_told_what_when_nobody_listens(wire):
    """RFC 1122: port and protocol unreachable, with the header and 8 bytes; never about errors, fragments, broadcasts."""
    def body(w):
        packet = ip(udp(b"hello", 1234, 4321))
        w.send(packet)
        (error,) = w.sent
        assert error[20:22] == b"\x03\x03" and error[28:] == packet and error[1] == 0xC0
        w.send(ip(b"12345678", protocol=99))
        assert w.sent[1][20:22] == b"\x03\x02"
        w.send(ip(udp(b"x", 1, 2, check=0x1234)))
        assert w.net.mib.udp["InCsumErrors"] == 1 and w.net.mib.udp["NoPorts"] == 1
        w.send(ip(udp(b"x", 1, 2, daddr=0x0A0002FF), daddr=0x0A0002FF), dst=b"\xff" * 6)
        w.send(ip(icmp(3, 3, 0, ip(udp(b"", 5, 6), saddr=ME, daddr=GATEWAY)), protocol=ICMP))
        w.send(ip(struct.pack(">HHHH", 1, 2, 3, 0)))
        assert len(w.sent) == 2 and w.net.mib.udp["IgnoredMulti"] == 1 and w.net.mib.udp["InErrors"] == 2
        w.send(ip(icmp(8, 0, 1), protocol=ICMP, options=b"\x07\x03\x09\0"))              # a record route that is full
        w.send(ip(icmp(8, 0, 1), protocol=ICMP, options=b"\x07\x03\x02\0"))              # and one with a bad pointer
        assert [p[20] for p in w.sent[2:]] == [0, 12] and w.sent[3][24] == 22

    wire(body)


def test_errors_are_limited_but_pings_are_not(wire):
    """icmp_ratelimit: six at once, then one each second, to one host."""
    def body(w):
        for port in range(30):
            w.send(ip(udp(b"", 1, 100 + port)), wait=0)
        msleep(20)
        assert sum(p[20] == 3 for p in w.sent) == 6
        msleep(2100)
        for port in range(4):
            w.send(ip(udp(b"", 1, 100 + port)))
        assert sum(p[20] == 3 for p in w.sent) == 8
        for number in range(20):
            w.send(ip(icmp(8, 0, number), protocol=ICMP))
        assert sum(p[20] == 0 for p in w.sent) == 20

    wire(body)


def pieces(data, size, **more):
    """ip() of each fragment."""
    return [ip(data[at : at + size], frag=at // 8 | (0x2000 if at + size < len(data) else 0), **more)
            for at in range(0, len(data), size)]


def test_fragments_come_together_in_any_order(wire):
    def body(w):
        message = icmp(8, 0, 77, bytes(range(256)) * 12)
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 1, 0, 2, 2)):
            parts = pieces(message, 1400, protocol=ICMP, ident=order[0] * 9 + len(order))
            for i in order:
                w.send(parts[i])
        assert w.ip("ReasmOKs") == 4 and w.net.mib.icmp["InEchos"] == 4
        # the answers are bigger than the link: cut again
        assert [len(p) for p in w.sent[:3]] == [1500, 1500, 20 + len(message) - 2960]
        assert b"".join(p[20:] for p in w.sent[:3])[4:] == message[4:]
        assert not w.net.ipv4.frags.mem or len(w.net.ipv4.frags.queues) == 1             # the late double

    wire(body)


def test_overlapping_fragments_throw_the_packet_away(wire):
    """CVE-2018-5391: RFC 5722's rule for IPv4 too."""
    def body(w):
        message = icmp(8, 0, 77, bytes(2000))
        first, last = pieces(message, 1400, protocol=ICMP)
        w.send(first)
        w.send(ip(bytes(160), frag=0x2000 | 170, protocol=ICMP))
        w.send(last)
        assert w.net.mib.ip_ext["ReasmOverlaps"] == 1 and w.ip("ReasmFails") == 1 and w.ip("ReasmOKs") == 0
        w.send(ip(bytes(16), frag=0x2000 | 0x1FFF, protocol=ICMP, ident=5))              # beyond 64 KiB
        w.send(ip(b"", frag=0x2000, protocol=ICMP, ident=6))                             # empty
        assert w.sent == []

    wire(body)


def test_a_packet_that_never_becomes_whole_times_out(wire):
    """ipfrag_time: 30 s; the sender hears of it if the first piece is here."""
    def body(w):
        first = pieces(icmp(8, 0, 77, bytes(2000)), 1400, protocol=ICMP)[0]
        w.send(first)
        w.send(pieces(udp(bytes(2000)), 1400, ident=9)[1])
        msleep(33_000)
        (error,) = w.sent
        assert error[20:22] == b"\x0b\x01" and error[28:48] == first[:20]
        assert w.ip("ReasmTimeout") == 2 and not w.net.ipv4.frags.queues and not w.net.ipv4.frags.mem

    wire(body)


def test_two_thousand_random_packets_do_no_harm(wire):
    def body(w):
        dice = random.Random(20191)
        good = [ip(icmp(8, 0, 1, bytes(100)), protocol=ICMP), ip(udp(bytes(64))), ip(bytes(40), protocol=6),
                ip(icmp(3, 3, 0, ip(udp(b"12345678"), saddr=ME, daddr=GATEWAY)), protocol=ICMP), ip(bytes(8), protocol=2),
                *pieces(udp(bytes(900)), 400), ip(icmp(8, 0, 1), protocol=ICMP, options=b"\x44\x0c\x05\0" + bytes(8))]
        for number in range(2000):
            packet = bytearray(dice.choice(good))
            for _ in range(dice.choice((0, 1, 1, 2, 5))):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
            if dice.random() < 0.7:      # a right header checksum lets the error through
                end = min((packet[0] & 15) * 4, len(packet))
                packet[10:12] = b"\0\0"
                packet[10:12] = csum_fold(csum_partial(bytes(packet[:end]))).to_bytes(2, "big")
            if dice.random() < 0.1:
                del packet[dice.randrange(len(packet)) :]
            w.send(bytes(packet), wait=4 if number % 50 == 49 else 0)
        msleep(40_000)                   # fragments are forgotten
        assert w.ip("InReceives") > 1900 and not w.net.ipv4.frags.queues
        w.sent.clear()
        w.send(ip(icmp(8, 0, 5), protocol=ICMP))
        assert len(w.sent) == 1

    wire(body)


def test_a_smaller_mtu_on_the_way_is_learned(wire):
    """RFC 1191: "fragmentation needed" about a packet of ours makes the next ones smaller, for ten minutes."""
    def body(w):
        from glasskernel.net.ipv4.route import ip_route_output_key
        from glasskernel.net.ipv4.types import Flowi4

        def mtu():
            rt = ip_route_output_key(w.net, Flowi4(daddr=0x08080808))
            value = rt.ops.mtu(rt)
            rt.release()
            return value

        assert mtu() == 1500
        from glasskernel.net.ipv4.af_inet import inet_ctl_sock_create, inet_ctl_sock_destroy
        from glasskernel.net.ipv4.types import InetSock

        sk = inet_ctl_sock_create(w.net, 2, 2, 17)
        assert isinstance(sk, InetSock) and sk.sk_prot.get_port(sk, 777) is False
        ours = ip(udp(bytes(8), 777, 53, saddr=ME, daddr=0x08080808), saddr=ME, daddr=0x08080808)
        w.send(ip(icmp(3, 4, 1200, ours), protocol=ICMP))
        assert mtu() == 1200
        w.send(ip(icmp(3, 4, 100, ours), protocol=ICMP))
        assert mtu() == 552              # min_pmtu: nobody makes us send crumbs
        msleep(601_000)
        assert mtu() == 1500
        sk.sk_prot.unhash(sk)
        inet_ctl_sock_destroy(sk)

    wire(body)


def test_arp_questions_are_answered_and_neighbours_grow_old(wire):
    """REACHABLE, then STALE; a packet makes it DELAY, no answer PROBE and FAILED."""
    def body(w):
        from glasskernel.net.core.neighbour import NUD_FAILED, NUD_REACHABLE, NUD_STALE

        seen = []
        w.nic.watch.append(lambda direction, data: seen.append(data) if direction == "sent" else None)

        def arp(op, sip, tip, target=bytes(6), dst=b"\xff" * 6, mac=PEER):
            w.nic.inject(dst + mac + b"\x08\x06" + struct.pack(">HHBBH6sI6sI", 1, 0x800, 6, 4, op, mac, sip, target, tip))
            msleep(8)

        other = 0x0A000263
        arp(1, other, ME)
        assert seen[0][:6] == PEER and seen[0][20:22] == b"\0\2" and seen[0][22:28] == w.nic.mac
        tbl, eth0 = w.kernel.inet.arp_tbl, w.net.dev_by_name[b"eth0"]
        n = tbl.nht[eth0, other]
        assert n.nud_state == NUD_STALE and n.ha == PEER
        arp(2, other, ME, w.nic.mac, w.nic.mac, mac=b"\x02impst")
        assert n.ha == PEER and len(seen) == 1                          # the first answer counts for a second (locktime)
        arp(2, other, ME, w.nic.mac, w.nic.mac)
        assert n.nud_state == NUD_REACHABLE
        msleep(60_000)
        assert n.nud_state == NUD_STALE
        w.send(ip(icmp(8, 0, 1), protocol=ICMP, saddr=other))
        assert len(w.sent) == 1
        msleep(20_000)
        assert n.nud_state == NUD_FAILED or n.dead
        assert sum(frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" for frame in seen) == 3
        arp(1, 0x0A000264, 0x0A000233)   # not for us
        assert (eth0, 0x0A000264) not in tbl.nht

    wire(body)


def test_packets_for_others_pass_through_when_that_is_wanted(wire):
    """net.ipv4.ip_forward: the TTL falls, the checksum stays right; a TTL of 1 ends here."""
    def body(w):
        from glasskernel.net.ipv4.sysctl_net_ipv4 import inet_forward_change

        w.send(ip(icmp(8, 0, 1), protocol=ICMP))                        # its address is known then
        w.sent.clear()
        w.nic.peer = None                # the gateway would have its own opinion
        other = 0x0A000263
        packet = ip(udp(b"pass", daddr=other), daddr=other, saddr=0x0B000001, ttl=9)
        w.send(packet)
        assert w.sent == [] and w.ip("InAddrErrors") == 1
        w.net.ipv4.sysctl["ip_forward"] = 1
        inet_forward_change(w.net)
        w.send(packet)                   # waits for the neighbour
        w.nic.inject(w.nic.mac + PEER + b"\x08\x06" + struct.pack(">HHBBH6sI6sI", 1, 0x800, 6, 4, 2, PEER, other, w.nic.mac, ME))
        msleep(8)
        (out,) = w.sent
        assert out[8] == 8 and csum_fold(csum_partial(out[:20])) == 0 and out[20:] == packet[20:] and out[12:20] == packet[12:20]
        w.send(ip(udp(b"pass", daddr=other), daddr=other, ttl=1))
        assert w.sent[1][20:22] == b"\x0b\0" and w.ip("ForwDatagrams") == 1
        w.send(ip(icmp(8, 0, 1), protocol=ICMP, daddr=0x7F000001))      # never to the loopback network
        w.send(ip(udp(b""), saddr=0x0A0002FF))                          # from a broadcast address
        assert len(w.sent) == 2

    wire(body)


def test_a_group_reaches_us_only_while_somebody_listens(wire):
    def body(w):
        from glasskernel.net.ipv4.igmp import ip_mc_dec_group, ip_mc_inc_group

        eth0 = w.net.dev_by_name[b"eth0"]
        group = 0xE1020304
        mac = b"\x01\x00\x5e\x02\x03\x04"
        delivered = w.ip("InDelivers")
        w.send(ip(udp(b"x", daddr=group), daddr=group), dst=mac)
        assert w.ip("InDelivers") == delivered and mac not in eth0.mc
        ip_mc_inc_group(eth0.ip_ptr, group)
        w.send(ip(udp(b"x", daddr=group), daddr=group), dst=mac)
        assert mac in eth0.mc and w.ip("InDelivers") == delivered + 1 and w.net.mib.udp["IgnoredMulti"] == 1
        assert w.net.mib.ip_ext["InMcastPkts"] == 1 and w.sent == []
        ip_mc_dec_group(eth0.ip_ptr, group)
        assert mac not in eth0.mc

    wire(body)


def test_routes_are_chosen_by_length_type_and_priority(wire):
    """ip-route(8): the longest prefix, then the smallest metric; unreachable, prohibit and blackhole have their errno."""
    def body(w):
        from glasskernel.lib.errno import EACCES, EEXIST, EHOSTUNREACH, EINVAL, ENETUNREACH, ESRCH, KernelError
        from glasskernel.net.ipv4.fib_lookup import fib_get_table
        from glasskernel.net.ipv4.fib_trie import fib_table_delete, fib_table_insert
        from glasskernel.net.ipv4.fib_types import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, FibConfig
        from glasskernel.net.ipv4.route import ip_route_output_key
        from glasskernel.net.ipv4.types import Flowi4

        main = fib_get_table(w.net, 254)

        def change(f, prefix, length, flags=NLM_F_CREATE | NLM_F_EXCL, **more):
            more.setdefault("fc_scope", 0)
            try:
                f(w.net, main, FibConfig(length, fc_dst=prefix, fc_table=254, fc_nlflags=flags, **more))
            except KernelError as e:
                return e.errno
            return 0

        def via(daddr, **flow):
            try:
                rt = ip_route_output_key(w.net, Flowi4(daddr=daddr, **flow))
            except KernelError as e:
                return e.errno
            rt.release()
            return rt.rt_gateway

        net = 0x14000000

        def add(*args, **more):
            return change(fib_table_insert, *args, **more)

        assert add(net, 8, fc_gw=0x0A000210) == 0 and add(net, 16, fc_gw=0x0A000211) == 0
        assert add(net, 16, fc_gw=0x0A000212, fc_priority=5) == 0 and add(net, 16, fc_gw=0x0A000213) == EEXIST
        assert via(net + 1) == 0x0A000211 and via(net + 0x10000) == 0x0A000210
        assert add(net, 16, NLM_F_REPLACE, fc_gw=0x0A000214) == 0 and via(net + 1) == 0x0A000214
        assert add(net, 16, NLM_F_CREATE | NLM_F_APPEND, fc_gw=0x0A000215) == 0 and via(net + 1) == 0x0A000214
        assert change(fib_table_delete, net, 16, fc_gw=0x0A000214, fc_scope=255, fc_type=0) == 0 and via(net + 1) == 0x0A000215
        assert change(fib_table_delete, net, 17, fc_scope=255, fc_type=0) == ESRCH
        for kind, errno in ((6, EINVAL), (7, EHOSTUNREACH), (8, EACCES), (9, ENETUNREACH)):
            assert add(net + kind, 32, fc_type=kind) == 0 and via(net + kind) == errno
        assert add(net + 1, 16) == EINVAL and add(net, 24, fc_gw=0x63000001, fc_oif=2) == ENETUNREACH
        assert via(net + 1, saddr=0x01020304) == EINVAL

    wire(body)
