"""UDP-Lite (RFC 3828): the same scripts on this host's Linux and inside."""
import socket

import pytest

PYTHON = "/usr/bin/python3"
HEAD = """
import errno, struct
from socket import *
LITE, SEND, RECV = 136, 10, 11
def lite():
    s = socket(AF_INET, SOCK_DGRAM, LITE); s.settimeout(5); s.bind(("127.0.0.1", 0)); return s
def attempt(name, f, *a):
    try: print(name, f(*a))
    except OSError as e: print(name, errno.errorcode.get(e.errno, e))
def counters():
    head, values = [l.split()[1:] for l in open("/proc/net/snmp") if l.startswith("UdpLite:")]
    return dict(zip(head, map(int, values)))
a, b = lite(), lite()
b.connect(a.getsockname())
"""


@pytest.fixture
def script_agrees(agree):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136).close()
    except OSError:
        pytest.skip("the host has no UDP-Lite")
    return lambda script: agree(HEAD + script, shell=PYTHON)


def test_datagrams_arrive_whatever_their_checksum_covers(script_agrees):
    """udplite(7): UDPLITE_SEND_CSCOV is the number of bytes the checksum covers, 8 at least; 0 is the whole datagram."""
    script_agrees("""
for coverage in (None, 0, 1, 8, 20, 5000, 70000):
    if coverage is not None:
        b.setsockopt(LITE, SEND, coverage); print(b.getsockopt(LITE, SEND))
    for size in (0, 1, 99, 3000):
        b.send(b"q" * size)
        print(len(a.recv(9000, MSG_PEEK)), a.recv(9000) == b"q" * size)
    b.send(b"hello world"); data, _, flags, who = a.recvmsg(5); print(data, flags == MSG_TRUNC, who == b.getsockname())
    b.send(b"more", MSG_MORE); b.send(b"less"); print(a.recv(100))
""")


def test_a_receiver_refuses_what_covers_too_little(script_agrees):
    """udplite(7): packets whose coverage is below UDPLITE_RECV_CSCOV are discarded."""
    script_agrees("""
a.settimeout(0.05)
for wanted in (0, 3, 30):
    a.setsockopt(LITE, RECV, wanted); print(a.getsockopt(LITE, RECV))
    for coverage in (8, 29, 30, 31, 0):
        b.setsockopt(LITE, SEND, coverage); b.send(b"z" * 100)
        before = counters(); attempt(f"{wanted} {coverage}", lambda: len(a.recv(1000))); after = counters()
""")


def test_a_damaged_tail_does_no_harm(script_agrees):
    """RFC 3828: bytes outside the coverage may change on their way; those inside may not, and a checksum has to be there."""
    script_agrees("""
def fold(data):
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\\0" * (len(data) % 2)))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
r = socket(AF_INET, SOCK_RAW, LITE); a.settimeout(0.05)
payload, port = b"headtail" * 4, a.getsockname()[1]
pseudo = bytes([127, 0, 0, 1]) * 2 + struct.pack(">HH", LITE, 8 + len(payload))
def send(coverage, damage=None, checksum=None):
    head = struct.pack(">HHHH", 9, port, coverage, 0)
    sum_ = fold(pseudo + (head + payload)[:coverage or None])
    packet = bytearray(head + payload)
    packet[6:8] = (sum_ if checksum is None else checksum).to_bytes(2, "big")
    if damage is not None: packet[damage] ^= 0x55
    r.sendto(bytes(packet), ("127.0.0.1", 0))
    attempt(f"{coverage} {damage} {checksum}", a.recv, 100)
send(0); send(8); send(24); send(25); send(40)
send(0, 39); send(12, 39); send(12, 11); send(12, 12); send(24, 30)
send(7); send(41); send(8, None, 0)
print(a.getsockopt(SOL_SOCKET, SO_ERROR))
""")


def test_its_ports_and_errors_are_its_own(script_agrees):
    """UDP and UDP-Lite may have the same port; an unreachable port is ECONNREFUSED; UDP has no coverage to set."""
    script_agrees("""
u = socket(AF_INET, SOCK_DGRAM); u.bind(a.getsockname())
attempt("in use", socket(AF_INET, SOCK_DGRAM, LITE).bind, a.getsockname())
u.settimeout(0.05); b.send(b"x"); attempt("udp", u.recv, 9); attempt("lite", a.recv, 9)
attempt("set", u.setsockopt, 17, SEND, 9); attempt("get", u.getsockopt, 17, SEND)
attempt("cork", a.getsockopt, LITE, 1); attempt("other", a.getsockopt, LITE, 99)
port = a.getsockname()[1]
mine = [l.split()[1] for l in open("/proc/net/udplite") if l.split()[1] == f"0100007F:{port:04X}"]; print(len(mine))
a.close(); b.send(b"y"); attempt("nobody", b.recv, 9)
print(b.getsockopt(SOL_SOCKET, SO_PROTOCOL), b.getsockopt(SOL_SOCKET, SO_TYPE))
""")
