"""IPv4 without TCP: the same scripts on this host's Linux and inside."""
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data" / "net"
PYTHON = "/usr/bin/python3"
HEAD = """
import errno, os, select, socket, struct, sys
from socket import *
def udp(addr="127.0.0.1", port=0):
    s = socket(AF_INET, SOCK_DGRAM); s.settimeout(5)
    if addr is not None: s.bind((addr, port))
    return s
def attempt(name, f, *a):
    try:
        r = f(*a); print(name, "fine" if isinstance(r, socket) else r)
    except OSError as e: print(name, errno.errorcode.get(e.errno, e))
"""


@pytest.fixture
def python_agrees(agree):
    def go(script, **options):
        return agree(HEAD + script, shell=PYTHON, **options)
    return go


def test_datagrams_keep_their_borders_and_their_sender(python_agrees):
    """udp(7): each recv() takes one datagram; what does not fit is lost and MSG_TRUNC tells how much there was."""
    python_agrees("""
a, b = udp(), udp()
for size in (0, 1, 8, 1472, 9000, 65507):
    print(a.sendto(b"q" * size, b.getsockname()))
    data, sender = b.recvfrom(70000); print(len(data), sender == a.getsockname(), data == b"q" * size)
attempt("too long", a.sendto, b"q" * 65508, b.getsockname())
a.sendto(b"hello world", b.getsockname())
print(b.recv(5, MSG_PEEK))
data, anc, flags, who = b.recvmsg(5); print(data, flags == MSG_TRUNC)
a.sendto(b"hello", b.getsockname())
buf = bytearray(2); print(b.recv_into(buf, 2, MSG_TRUNC), buf)
b.setblocking(False); attempt("empty", b.recv, 10)
""")


def test_what_bind_refuses(python_agrees):
    """bind(2): EADDRINUSE, EADDRNOTAVAIL, EINVAL when bound already; SO_REUSEADDR and SO_REUSEPORT share a port."""
    python_agrees("""
a = udp(); port = a.getsockname()[1]
attempt("in use", udp, "127.0.0.1", port)
attempt("wildcard too", udp, "0.0.0.0", port)
print(udp("127.0.0.2", port).getsockname() == ("127.0.0.2", port))
attempt("not ours", udp, "8.8.8.8", 0)
attempt("twice", a.bind, ("127.0.0.1", 0))
for option in (SO_REUSEADDR, SO_REUSEPORT):
    s, t = udp(None), udp(None)
    s.setsockopt(SOL_SOCKET, option, 1); s.bind(("127.0.0.1", 0))
    attempt("one-sided", t.bind, s.getsockname())
    t.setsockopt(SOL_SOCKET, option, 1); attempt("both", t.bind, s.getsockname())
s = udp(None); s.bind(("", 0)); print(s.getsockname()[0])
attempt("broadcast", udp, "255.255.255.255", 0)
attempt("group", udp, "224.1.2.3", 0)
""")


def test_connected_sockets_hear_only_their_peer(python_agrees):
    """connect(2) of datagram sockets: send() without an address, getpeername(), errors of ICMP, AF_UNSPEC undoes it."""
    python_agrees("""
a, b, c = udp(), udp(), udp()
attempt("no peer", a.send, b"x"); attempt("no name", a.getpeername)
a.connect(b.getsockname()); print(a.getpeername() == b.getsockname(), a.send(b"1"), b.recv(9))
c.sendto(b"stranger", a.getsockname()); b.sendto(b"friend", a.getsockname()); print(a.recv(20))
a.sendto(b"elsewhere", c.getsockname()); print(c.recv(20))
name = b.getsockname(); b.close()
print(a.send(b"x")); attempt("refused", a.recv, 10); print(a.send(b"x"))
print(a.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED, a.getsockopt(SOL_SOCKET, SO_ERROR))
a.settimeout(None); a.connect(c.getsockname()); a.shutdown(SHUT_RD); print(a.recv(10))
a.setblocking(False); attempt("shut", a.recv, 10)
a.shutdown(SHUT_WR)
d = udp(); attempt("not connected", d.shutdown, SHUT_RDWR)
e = udp(None); e.connect(("127.0.0.1", 9)); print(e.getsockname()[0])
""")


def test_errors_of_addresses(python_agrees):
    """sendto(2): EACCES for a broadcast without SO_BROADCAST, EINVAL for port 0 and foreign sources."""
    python_agrees("""
a = udp(None)
attempt("port 0", a.sendto, b"x", ("127.0.0.1", 0))
attempt("broadcast", a.sendto, b"x", ("255.255.255.255", 99))
attempt("oob", a.sendto, b"x", MSG_OOB, ("127.0.0.1", 99))
l = udp("127.0.0.1")
attempt("loopback address over the wire", l.connect, ("10.255.255.254", 99))
attempt("raw type", socket, AF_INET, SOCK_STREAM, 17)
attempt("protocol", socket, AF_INET, SOCK_DGRAM, 6)
attempt("type", socket, AF_INET, SOCK_SEQPACKET, 0)
attempt("range", socket, AF_INET, SOCK_DGRAM, 300)
attempt("listen", a.listen, 1)
""")


def test_cork_and_more_make_one_datagram(python_agrees):
    """udp(7): UDP_CORK and MSG_MORE collect what is sent."""
    python_agrees("""
a, b = udp(), udp()
a.connect(b.getsockname())
print(a.send(b"one ", MSG_MORE), a.send(b"two ", MSG_MORE), a.send(b"three")); print(b.recv(99))
a.setsockopt(IPPROTO_UDP, 1, 1); print(a.getsockopt(IPPROTO_UDP, 1))
a.send(b"x" * 3000); a.send(b"y" * 3000); a.setsockopt(IPPROTO_UDP, 1, 0)
d = b.recv(9999); print(len(d), d == b"x" * 3000 + b"y" * 3000)
a.setsockopt(IPPROTO_UDP, 1, 1); a.send(b"x" * 60000); attempt("too much", a.send, b"x" * 9000)
a.setsockopt(IPPROTO_UDP, 1, 0); a.send(b"fresh"); print(b.recv(99999)[:9])
""")


def test_control_messages(python_agrees):
    """ip(7): IP_PKTINFO, IP_RECVTTL, IP_RECVTOS tell about a packet; IP_TTL, IP_TOS and IP_PKTINFO of a sender."""
    python_agrees("""
a, b = udp(), udp("0.0.0.0")
for option in (8, 12, 13): b.setsockopt(IPPROTO_IP, option, 1); print(b.getsockopt(IPPROTO_IP, option))
a.setsockopt(IPPROTO_IP, IP_TTL, 33); a.setsockopt(IPPROTO_IP, IP_TOS, 0x28)
to = ("127.0.0.7", b.getsockname()[1])
a.sendto(b"x", to); d, anc, fl, who = b.recvmsg(10, 500)
print(sorted((l, t, bytes(v).hex()) for l, t, v in anc), fl)
a.sendmsg([b"y"], [(IPPROTO_IP, IP_TTL, struct.pack("i", 5)), (IPPROTO_IP, IP_TOS, struct.pack("i", 8)),
                   (IPPROTO_IP, 8, struct.pack("iII", 0, 0x0900007f, 0))], 0, to)
d, anc, fl, who = b.recvmsg(10, 500); print(sorted((l, t, bytes(v).hex()) for l, t, v in anc), who[0])
attempt("ttl 0", a.sendmsg, [b"y"], [(IPPROTO_IP, IP_TTL, struct.pack("i", 0))], 0, to)
attempt("ttl option", a.setsockopt, IPPROTO_IP, IP_TTL, 256)
for option in (IP_TOS, IP_TTL, 10, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, 11, 15, 21, 24, 49):
    print(option, a.getsockopt(IPPROTO_IP, option))
attempt("mtu", a.getsockopt, IPPROTO_IP, 14); a.connect(to); print(a.getsockopt(IPPROTO_IP, 14) > 65000)
attempt("none", a.setsockopt, IPPROTO_IP, 99, 1)
attempt("hdrincl", a.setsockopt, IPPROTO_IP, 3, 1)
""")


def test_recverr_tells_who_complained(python_agrees):
    """ip(7): IP_RECVERR and MSG_ERRQUEUE."""
    python_agrees("""
a, b = udp(), udp(); to = b.getsockname(); b.close()
a.setsockopt(IPPROTO_IP, 11, 1)
a.setblocking(False)
a.sendto(b"payload", to); attempt("error", a.recv, 10)
attempt("once", a.recv, 10)
d, anc, fl, who = a.recvmsg(100, 500, MSG_ERRQUEUE)
print(d, who == to, fl & MSG_ERRQUEUE != 0, anc[0][:2], anc[0][2][:16].hex(), anc[0][2][16:24].hex())
attempt("empty", a.recvmsg, 100, 500, MSG_ERRQUEUE)
p = select.poll(); p.register(a, 0); print(p.poll(0) == [])
a.sendto(b"again", to); print([e for _, e in p.poll(1000)])
""")


def test_groups_are_joined_and_left(python_agrees):
    """ip(7): IP_ADD_MEMBERSHIP; packets to a group come back (IP_MULTICAST_LOOP) to every member."""
    python_agrees("""
lo = inet_aton("127.0.0.1"); group = inet_aton("239.1.2.3")
def member():
    s = socket(AF_INET, SOCK_DGRAM); s.settimeout(2); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); s.bind(("", port)); return s
port = 0; first = member(); port = first.getsockname()[1]
first.close(); r, r2, no = member(), member(), member()
no.setsockopt(IPPROTO_IP, 49, 0)
for s in (r, r2): s.setsockopt(IPPROTO_IP, IP_ADD_MEMBERSHIP, group + lo)
attempt("again", r.setsockopt, IPPROTO_IP, IP_ADD_MEMBERSHIP, group + lo)
attempt("no group", r.setsockopt, IPPROTO_IP, IP_ADD_MEMBERSHIP, inet_aton("10.1.2.3") + lo)
a = udp(None); a.setsockopt(IPPROTO_IP, IP_MULTICAST_IF, lo); print(inet_ntoa(a.getsockopt(IPPROTO_IP, IP_MULTICAST_IF, 4)))
a.sendto(b"to all", ("239.1.2.3", port)); print(r.recv(99), r2.recv(99))
no.setblocking(False); attempt("not a member", no.recv, 99)
r.setsockopt(IPPROTO_IP, IP_DROP_MEMBERSHIP, group + lo)
attempt("not any more", r.setsockopt, IPPROTO_IP, IP_DROP_MEMBERSHIP, group + lo)
""")


def test_a_full_queue_drops_and_poll_and_ioctls_see_it(python_agrees):
    """udp(7): FIONREAD is the next datagram's length; poll() reports what can be read."""
    python_agrees("""
import fcntl
a, b = udp(), udp()
for size in (7, 0, 100): a.sendto(b"z" * size, b.getsockname())
for _ in range(3):
    print(struct.unpack("i", fcntl.ioctl(b, 0x541B, b"    ")), select.select([b], [b], [], 1)[0] == [b], len(b.recv(200)))
print(select.select([b], [], [], 0)[0]); print(struct.unpack("i", fcntl.ioctl(a, 0x5411, b"    ")))
b.setsockopt(SOL_SOCKET, SO_RCVBUF, 2304)
for i in range(200): a.sendto(b"%d" % i, b.getsockname())
b.setblocking(False); got = []
while True:
    try: got.append(int(b.recv(9)))
    except BlockingIOError: break
print(0 < len(got) < 200, got == list(range(len(got))))
""")


def test_ping_and_its_answers(run):
    """The reference machine's output, but for the time (outputs/ping-lo.txt, ping-gw.txt)."""
    for host, ttl in (("127.0.0.1", 64), ("10.0.2.2", 64)):
        result = run(["/usr/bin/ping", "-c", "2", "-i", "0.2", host])
        assert result.status == 0, result.stderr
        text = result.stdout.decode()
        assert f"PING {host} ({host}) 56(84) bytes of data." in text
        assert f"64 bytes from {host}: icmp_seq=2 ttl={ttl} time=" in text
        assert "2 packets transmitted, 2 received, 0% packet loss" in text


def test_nobody_at_an_address_is_an_unreachable_host(boot):
    """arp(7): after three questions without an answer the waiting packets fail with EHOSTUNREACH."""
    run = boot().run
    result = run(["/usr/bin/ping", "-c", "1", "-W", "5", "10.0.2.99"])
    assert b"From 10.0.2.15 icmp_seq=1 Destination Host Unreachable" in result.stdout
    neighbours = run(["/bin/cat", "/proc/net/arp"]).stdout.decode()
    assert "10.0.2.99        0x1         0x0         00:00:00:00:00:00     *        eth0" in neighbours


def test_proc_files_are_those_of_the_reference_machine(boot):
    """proc(5): /proc/net/*, after a ping of the loopback device and one of the gateway."""
    run = boot().run
    run(["/usr/bin/ping", "-c", "1", "127.0.0.1"])
    run(["/usr/bin/ping", "-c", "1", "10.0.2.2"])
    for name in ("arp", "route", "fib_trie", "rt_cache", "igmp", "raw", "icmp", "udp"):
        expected = (DATA / f"{name}.txt").read_bytes()
        assert run(["/bin/cat", f"/proc/net/{name}"]).stdout == expected, name
    snmp = run(["/bin/cat", "/proc/net/snmp"]).stdout.decode().split("\n")
    reference = (DATA / "snmp.txt").read_text().split("\n")
    assert snmp == reference
    triestat = run(["/bin/cat", "/proc/net/fib_triestat"]).stdout.decode()
    assert triestat.split("Counters")[0] == (DATA / "fib_triestat.txt").read_text().split("Counters")[0]


def test_ip_v6_is_a_gap(run):
    """socket(2): EAFNOSUPPORT; names resolve to IPv4 addresses."""
    result = run([PYTHON, "-c", "import socket\nprint(socket.getaddrinfo('localhost', 80)[0][4])\n"
                  "try: socket.socket(socket.AF_INET6)\nexcept OSError as e: print(e.errno)"])
    assert result.stdout == b"('127.0.0.1', 80)\n97\n"


def test_raw_sockets_see_and_send_packets(python_agrees):
    """raw(7): whole packets arrive, protocol by protocol; IP_HDRINCL; ICMP_FILTER; connect() and bind() choose."""
    python_agrees("""
def csum(b):
    s = sum(struct.unpack(">%dH" % (len(b) // 2), b)); s = (s >> 16) + (s & 0xffff); return ~(s + (s >> 16)) & 0xffff
def echo(kind, ident): m = struct.pack(">BBHHH", kind, 0, 0, ident, 1) + b"payload!"; return m[:2] + struct.pack(">H", csum(m)) + m[4:]
r = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); r.settimeout(3)
r.setsockopt(255, 1, struct.pack("I", ~1 & 0xffffffff))          # ICMP_FILTER: replies only
print(r.sendto(echo(8, 4242), ("127.0.0.1", 0)))
d, who = r.recvfrom(999); print(who, d[0] == 0x45, d[8], d[9], d[12:20], d[20:22], d[24:])
attempt("icmp filter", r.getsockopt, 255, 1)
h = socket(AF_INET, SOCK_RAW, IPPROTO_RAW); print(h.getsockopt(IPPROTO_IP, 3))
p = struct.pack(">BBHHHBBH4s4s", 0x45, 8, 0, 0, 0, 77, 253, 0, bytes(4), inet_aton("127.0.0.9")) + b"hello"
s = socket(AF_INET, SOCK_RAW, 253); s.settimeout(3); t = socket(AF_INET, SOCK_RAW, 253); t.bind(("127.0.0.8", 0)); t.setblocking(False)
print(h.sendto(p, ("127.0.0.9", 0))); d, who = s.recvfrom(99)
print(who, d[:4], d[8:10], d[12:], csum(d[:20])); attempt("bound elsewhere", t.recv, 9)
attempt("short", h.sendto, b"x" * 10, ("127.0.0.1", 0)); attempt("long", h.sendto, b"x" * 66000, ("127.0.0.1", 0))
s.connect(("127.0.0.1", 0)); print(s.send(b"abc"), s.recv(99)[20:], s.getpeername() if False else "")
print(s.getsockname()); attempt("oob", s.recv, 1, MSG_OOB)
attempt("protocol 0", socket, AF_INET, SOCK_RAW, 0)
u = socket(AF_INET, SOCK_RAW, IPPROTO_UDP); u.settimeout(3)
a, b = udp(), udp(); a.sendto(b"seen", b.getsockname()); d = u.recv(99); print(d[9], d[28:], b.recv(9))
""")


def test_ports_are_shared_by_flows(python_agrees):
    """socket(7): SO_REUSEPORT spreads senders over the group, and every sender stays with one member."""
    python_agrees("""
group = []
for i in range(4):
    s = socket(AF_INET, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1); s.setblocking(False)
    s.bind(group[0].getsockname() if group else ("127.0.0.1", 0)); group.append(s)
senders = [udp() for _ in range(64)]
for round in range(3):
    for s in senders: s.sendto(b"x", group[0].getsockname())
seen = {}
for i, s in enumerate(group):
    while True:
        try: seen.setdefault(s.recvfrom(9)[1], []).append(i)
        except BlockingIOError: break
print(len(seen), all(len(v) == 3 and len(set(v)) == 1 for v in seen.values()), len({v[0] for v in seen.values()}))
""")


def test_broadcasts_reach_every_socket_of_the_port(python_agrees):
    """udp(7): a broadcast is delivered to all that are bound to the port; 127.255.255.255 is the loopback device's."""
    python_agrees("""
def member(addr):
    s = socket(AF_INET, SOCK_DGRAM); s.settimeout(2); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); s.bind((addr, port)); return s
x = udp(""); port = x.getsockname()[1]; x.close()
one, two = member(""), member("127.255.255.255")
a = udp(None); attempt("not allowed", a.sendto, b"x", ("127.255.255.255", port))
a.setsockopt(SOL_SOCKET, SO_BROADCAST, 1); a.sendto(b"all", ("127.255.255.255", port))
print(one.recv(9), two.recv(9)); a.sendto(b"one", ("127.0.0.1", port)); print(one.recv(9)); two.setblocking(False)
attempt("only broadcasts", two.recv, 9)
attempt("connect", udp(None).connect, ("127.255.255.255", port))
""")
