"""TCP over a cable that loses, duplicates, reorders and corrupts. The other end reflects: who talks to 10.0.2.100 talks
to a listener on 10.0.2.15, as seen from there from 10.0.2.100."""
from __future__ import annotations

import itertools

import pytest

ME, MIRROR = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 100))
MAC = bytes.fromhex("52550a000264")
PY = "/usr/bin/python3"


class Mirror:
    """Swaps source and destination: checksums stay right, as sums do not depend on the order."""

    def __init__(self, nic):
        self.nic = nic
        self.sent = []                   # (ns, TCP flags, sequence number, bytes of data) of every segment
        self.deaf = False

    def receive(self, frame):
        if frame[12:14] == b"\x08\x06":
            if frame[38:42] == MIRROR and frame[20:22] == b"\0\1":
                self.nic.inject(frame[6:12] + MAC + b"\x08\x06" + frame[14:20] + b"\0\2" + MAC + MIRROR + frame[22:32])
            return
        if frame[30:34] != MIRROR or self.deaf:
            return
        if frame[23] == 6:
            tcp = 14 + (frame[14] & 15) * 4
            length = int.from_bytes(frame[16:18], "big") + 14 - tcp - (frame[tcp + 12] >> 4) * 4
            self.sent.append((self.nic.machine.now(), frame[tcp + 13], int.from_bytes(frame[tcp + 4 : tcp + 8], "big"), length))
        self.nic.inject(frame[6:12] + MAC + frame[12:26] + MIRROR + ME + frame[34:])


TRANSFER = r"""
import hashlib, os, socket, sys, threading, time
total = int(sys.argv[1])
l = socket.socket(); l.bind(("10.0.2.15", 5000)); l.listen()
data = hashlib.shake_128(b"seed").digest(total)
def server():
    s, _ = l.accept(); h = hashlib.sha1(); n = 0
    while True:
        b = s.recv(65536)
        if not b: break
        h.update(b)
    s.sendall(h.digest()); s.close()
t = threading.Thread(target=server); t.start()
c = socket.create_connection(("10.0.2.100", 5000))
c.sendall(data); c.shutdown(socket.SHUT_WR)
print(c.recv(20, socket.MSG_WAITALL) == hashlib.sha1(data).digest()); t.join()
"""


@pytest.fixture
def wire(boot):
    """wire(script, *arguments, **faults): runs it with the mirror; answers (result, mirror, kernel)."""

    def go(script, *arguments, setup=None, **faults):
        kernel = boot()
        nic = kernel.machine.nic
        nic.peer = mirror = Mirror(nic)
        for name, value in faults.items():
            setattr(nic.faults, name, value)
        if setup is not None:
            setup(kernel, mirror)
        result = kernel.run([PY, "-c", script, *arguments], cwd="/tmp")
        return result, mirror, kernel

    return go


def counters(kernel):
    return kernel.net.init_net.mib.net


def test_data_crosses_the_cable(wire):
    result, mirror, kernel = wire(TRANSFER, "300000")
    assert result.stdout == b"True\n", result.stderr
    assert max(length for _, _, _, length in mirror.sent) == 1448
    assert counters(kernel)["TCPTimeouts"] == 0


@pytest.mark.parametrize("faults", [
    {"lose_every": 20}, {"lose_every": 7}, {"duplicate_every": 5}, {"reorder_every": 6, "reorder_ns": 2_000_000},
    {"corrupt_every": 15}, {"lose_every": 15, "duplicate_every": 15, "reorder_every": 15, "corrupt_every": 25},
], ids=lambda faults: "-".join(faults))
def test_data_arrives_whole_whatever_the_cable_does(wire, faults):
    """A278"""
    result, mirror, kernel = wire(TRANSFER, "150000", **faults)
    assert result.stdout == b"True\n", result.stderr
    mib = kernel.net.init_net.mib
    if "lose_every" in faults or "corrupt_every" in faults:
        assert mib.tcp["RetransSegs"] > 0
    if "corrupt_every" in faults:
        assert mib.tcp["InCsumErrors"] + mib.ip["InHdrErrors"] > 0


def test_one_lost_segment_is_repaired_by_fast_retransmission(wire):
    """SACK and RACK: no timeout"""
    result, mirror, kernel = wire(TRANSFER, "200000", lose=[60])
    assert result.stdout == b"True\n", result.stderr
    mib = counters(kernel)
    assert mib["TCPTimeouts"] == 0 and mib["TCPSackRecovery"] == 1 and mib["TCPFastRetrans"] >= 1


def test_without_sack_newreno_repairs(wire):
    def setup(kernel, mirror):
        pass

    script = "open('/proc/sys/net/ipv4/tcp_sack', 'w').write('0')\n" + TRANSFER
    result, mirror, kernel = wire(script, "200000", setup=setup, lose=[60])
    assert result.stdout == b"True\n", result.stderr
    assert counters(kernel)["TCPRenoRecovery"] == 1


def test_a_lost_syn_is_sent_again_after_one_second(wire):
    result, mirror, kernel = wire(TRANSFER, "1000", lose=[3])
    assert result.stdout == b"True\n", result.stderr
    syns = [ns for ns, flags, _, _ in mirror.sent if flags == 2]
    assert counters(kernel)["TCPSynRetrans"] >= 1
    assert syns


DEAF = r"""
import errno, socket, sys, threading, time
l = socket.socket(); l.bind(("10.0.2.15", 5000)); l.listen()
c = socket.create_connection(("10.0.2.100", 5000)); s, _ = l.accept()
for line in sys.argv[1:]: exec(line)
time.sleep(0.5); print("ready", flush=True); t = time.monotonic()
try:
    c.sendall(b"x" * 10) if "send" in sys.argv[1] else None; c.recv(1)
except OSError as e:
    print(errno.errorcode[e.errno], round(time.monotonic() - t))
"""


def deaf_from(seconds):
    def setup(kernel, mirror):
        def deafen():
            mirror.deaf = True

        kernel.machine.at(int(seconds * 1e9), deafen)
    return setup


def test_retransmissions_double_their_distance_and_give_up(wire):
    """A278: 200 ms, 400 ms ... up to 120 s; after tcp_retries2 of them ETIMEDOUT, 15 minutes later"""
    sent = []

    def setup(kernel, mirror):
        kernel.machine.nic.watch.append(
            lambda direction, frame: sent.append((kernel.machine.now(), len(frame))) if direction == "sent"
            and frame[12:14] == b"\x08\0" and frame[30:34] == MIRROR else None)
        deaf_from(0.4)(kernel, mirror)

    result, mirror, kernel = wire(DEAF, "'send'", setup=setup)
    lines = result.stdout.decode().split("\n")
    assert lines[0] == "ready", result.stderr
    name, seconds = lines[1].split()
    assert name == "ETIMEDOUT" and 900 <= int(seconds) <= 1000
    times = [ns for ns, length in sent if length == 14 + 52 + 10]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) >= 15
    doubling = gaps[2:9]
    assert all(1.8 < b / a < 2.2 for a, b in itertools.pairwise(doubling)), gaps
    assert 118e9 < gaps[-1] < 125e9


def test_keepalive_finds_a_dead_peer(wire):
    """A277: after KEEPIDLE + KEEPCNT * KEEPINTVL seconds ETIMEDOUT"""
    options = ("c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1); "
               "[c.setsockopt(socket.IPPROTO_TCP, o, v) for o, v in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 3), "
               "(socket.TCP_KEEPCNT, 4))]")
    result, mirror, kernel = wire(DEAF, options, setup=deaf_from(0.4))
    name, seconds = result.stdout.decode().split("\n")[1].split()
    assert name == "ETIMEDOUT" and 20 <= int(seconds) <= 24
    assert counters(kernel)["TCPKeepAlive"] == 4


def test_user_timeout(wire):
    """tcp(7): TCP_USER_TIMEOUT"""
    result, mirror, kernel = wire(DEAF, "'send'; c.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)",
                                  setup=deaf_from(0.4))
    name, seconds = result.stdout.decode().split("\n")[1].split()
    assert name == "ETIMEDOUT" and 4 <= int(seconds) <= 7


def test_connect_times_out_after_six_retries(wire):
    """tcp(7): tcp_syn_retries: 127 s"""
    script = r"""
import errno, socket, time
c = socket.socket(); t = time.monotonic()
try: c.connect(("10.0.2.100", 5000))
except OSError as e: print(errno.errorcode[e.errno], round(time.monotonic() - t))
"""
    result, mirror, kernel = wire(script, setup=lambda kernel, mirror: setattr(mirror, "deaf", True))
    name, seconds = result.stdout.decode().split()
    assert name == "ETIMEDOUT" and 127 <= int(seconds) <= 135


def test_both_connect_at_once(wire):
    """RFC 793, figure 8: simultaneous open; one sock talks to itself through the mirror"""
    script = r"""
import socket
c = socket.socket(); c.bind(("10.0.2.15", 6000)); c.connect(("10.0.2.100", 6000)); c.sendall(b"echo"); print(c.recv(10))
"""
    result, mirror, kernel = wire(script)
    assert result.stdout == b"b'echo'\n", result.stderr


def test_a_closed_window_is_probed(wire):
    """RFC 1122, 4.2.2.17: the reader sleeps for 20 s; probes keep the connection alive"""
    script = r"""
import hashlib, socket, threading, time
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192); l.bind(("10.0.2.15", 5000)); l.listen()
c = socket.socket(); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400000); c.connect(("10.0.2.100", 5000))
s, _ = l.accept()
data = hashlib.shake_128(b"x").digest(600000); t = threading.Thread(target=lambda: (c.sendall(data), c.close())); t.start()
time.sleep(20); got = b""
while (b := s.recv(65536)): got += b
print(got == data); t.join()
"""
    result, mirror, kernel = wire(script)
    assert result.stdout == b"True\n", result.stderr
    assert counters(kernel)["TCPWinProbe"] >= 3


def test_random_segments_do_no_harm(wire):
    """A listener, a connection and closed ports get 2000 segments with random flags, numbers and options"""
    import random

    from glasskernel.lib.checksum import csum_partial, csum_tcpudp_magic, ip_fast_csum

    dice = random.Random(7)
    seen = {}

    def setup(kernel, mirror):
        nic = kernel.machine.nic

        def watch(direction, frame):
            if direction == "sent" and frame[23:24] == b"\6" and frame[12:14] == b"\x08\0":
                seen[frame[34:36]] = (frame[36:38], int.from_bytes(frame[38:42], "big"), int.from_bytes(frame[42:46], "big"))

        def shoot():
            me = dice.choice([*seen, (5000).to_bytes(2, "big"), dice.randbytes(2)])
            peer, seq, ack = seen.get(me, (dice.randbytes(2), 0, 0))
            if dice.randrange(3) == 0:
                seq, ack = dice.getrandbits(32), dice.getrandbits(32)
            options = dice.randbytes(dice.choice([0, 0, 4, 12, 20, 40]))
            data = dice.randbytes(dice.choice([0, 0, 1, 100, 1400]))
            flags = dice.choice([0x10, 0x18, 0x11, 0x02, 0x12, 0x04, 0x14, 0x30, dice.getrandbits(8)])
            number = (ack + dice.choice([0, 0, 1, -1, 1000, 100000])) & 0xFFFFFFFF
            doff = dice.choice([20 + len(options)] * 9 + [dice.randrange(16) * 4])
            tcp = bytearray(peer + me + number.to_bytes(4, "big")
                            + ((seq + dice.choice([0, 1, 10, -1])) & 0xFFFFFFFF).to_bytes(4, "big") + bytes([doff << 2 & 0xFF, flags])
                            + dice.randbytes(2) + b"\0\0" + dice.choice([b"\0\0", dice.randbytes(2)]) + options + data)
            source, dest = int.from_bytes(MIRROR, "big"), int.from_bytes(ME, "big")
            tcp[16:18] = csum_tcpudp_magic(source, dest, len(tcp), 6, csum_partial(tcp)).to_bytes(2, "big")
            ip = bytearray(b"\x45\0" + (20 + len(tcp)).to_bytes(2, "big") + b"\0\0\x40\0\x40\6\0\0" + MIRROR + ME)
            ip[10:12] = ip_fast_csum(ip).to_bytes(2, "big")
            nic.inject(nic.mac + MAC + b"\x08\0" + bytes(ip) + bytes(tcp))

        nic.watch.append(watch)
        for i in range(2000):
            kernel.machine.at(500_000_000 + i * 400_000, shoot)

    script = r"""
import socket, threading, time
l = socket.socket(); l.bind(("10.0.2.15", 5000)); l.listen(50); l.settimeout(0.05); held = []
end = time.monotonic() + 1.5
def use(s):
    s.settimeout(0.2)
    try:
        while time.monotonic() < end: s.send(b"x" * 3000); s.recv(4000); time.sleep(0.03)
    except OSError: pass
for _ in range(5):
    c = socket.socket(); c.settimeout(0.5)
    try: c.connect(("10.0.2.100", 5000)); threading.Thread(target=use, args=(c,)).start()
    except OSError: pass
while time.monotonic() < end:
    try: s, _ = l.accept(); held.append(s); threading.Thread(target=use, args=(s,)).start()
    except OSError: pass
print("alive")
"""
    result, mirror, kernel = wire(script, setup=setup)
    assert result.stdout == b"alive\n", result.stderr
    assert kernel.net.init_net.mib.tcp["InSegs"] > 1500
    assert kernel.net.memory_allocated["TCP"] == 0 or kernel.net.sockets_allocated["TCP"] > 0
