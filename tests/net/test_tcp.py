"""TCP: what programs see of it. Where a script runs on the host, too, Linux says what is right."""
from __future__ import annotations

PY = "/usr/bin/python3"
HEAD = r"""
import errno, fcntl, os, select, signal, socket, struct, sys, threading, time
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
def pair(**options):
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(("127.0.0.1", 0)); l.listen(8)
    c = socket.create_connection(l.getsockname()); s, _ = l.accept(); l.close()
    return c, s
def err(call, *args):
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
def opt(s, name, size=4):
    return s.getsockopt(socket.IPPROTO_TCP, name)
"""


def python_agrees(agree, body):
    agree(HEAD + body, shell=PY)


def test_handshake_data_and_end(agree):
    """connect, accept, both directions, half close, end of file"""
    python_agrees(agree, r"""
c, s = pair()
c.sendall(b"hello"); print(s.recv(100))
s.sendall(b"world" * 1000); print(len(c.recv(5000, socket.MSG_WAITALL)))
c.shutdown(socket.SHUT_WR); print(s.recv(10)); s.sendall(b"late"); print(c.recv(10))
s.close(); print(c.recv(10)); c.close()
""")


def test_errors_of_connections(agree):
    """connect(2), send(2), recv(2): ECONNREFUSED, ENOTCONN, EPIPE, ECONNRESET, EISCONN, EADDRINUSE, EINVAL"""
    python_agrees(agree, r"""
s = socket.socket(); print(err(s.connect, ("127.0.0.1", 1)), err(s.recv, 1), err(s.send, b"x"), err(s.accept))
print(err(s.getpeername), err(s.shutdown, 2))
c, s = pair(); print(err(c.connect, ("127.0.0.1", 9)), err(c.listen), err(c.bind, ("127.0.0.1", 0)))
s.sendall(b"unread"); time.sleep(0.05); c.close(); time.sleep(0.05); print(err(s.recv, 10), err(s.send, b"x"))
c, s = pair(); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close(); time.sleep(0.05)
print(err(s.recv, 1), s.recv(1))
c, s = pair(); c.close(); time.sleep(0.05); print(err(s.send, b"x")); time.sleep(0.05); print(err(s.send, b"x"), s.recv(1))
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(1); m = socket.socket(); print(err(m.bind, l.getsockname()))
print(err(l.recv, 1), err(l.connect, ("127.0.0.1", 1)))
l.setblocking(False); print(err(l.accept))
""")


def test_nonblocking_connect_and_poll(agree):
    """poll(2): POLLOUT when the handshake is over; POLLIN, POLLRDHUP, POLLHUP at the ends"""
    python_agrees(agree, r"""
def events(s):
    p = select.poll(); p.register(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLPRI)
    return [e for _, e in p.poll(0)]
l = socket.socket(); l.bind(("127.0.0.1", 0)); print(events(l)); l.listen(); print(events(l))
c = socket.socket(); c.setblocking(False); print(errno.errorcode[c.connect_ex(l.getsockname())])
select.select([], [c], []); print(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), events(l), events(c))
s, _ = l.accept(); c.send(b"x"); select.select([s], [], []); print(events(s))
c.shutdown(socket.SHUT_WR); time.sleep(0.05); print(events(s)); s.close(); time.sleep(0.05); print(events(c))
d = socket.socket(); d.setblocking(False); d.connect_ex(("127.0.0.1", 1)); time.sleep(0.05); print(events(d))
print(errno.errorcode[d.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
""")


def test_urgent_data(agree):
    """tcp(7): MSG_OOB, SIOCATMARK, SO_OOBINLINE, SIGURG"""
    python_agrees(agree, r"""
SIOCATMARK = 0x8905
def mark(s): return struct.unpack("i", fcntl.ioctl(s, SIOCATMARK, b"\0\0\0\0"))[0]
c, s = pair(); got = []
signal.signal(signal.SIGURG, lambda *a: got.append("SIGURG")); fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
c.send(b"abc"); c.send(b"d", socket.MSG_OOB); c.send(b"efg"); time.sleep(0.1)
print(got, mark(s), s.recv(10), mark(s), s.recv(1, socket.MSG_OOB), err(s.recv, 1, socket.MSG_OOB), s.recv(10), mark(s))
s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
c.send(b"12"); c.send(b"3", socket.MSG_OOB); c.send(b"4"); time.sleep(0.1)
print(s.recv(10), mark(s), s.recv(10), err(s.recv, 1, socket.MSG_OOB))
""")


def test_options(agree):
    """tcp(7): defaults, limits, what is read back"""
    python_agrees(agree, r"""
s = socket.socket()
for name in ("NODELAY", "CORK", "KEEPIDLE", "KEEPINTVL", "KEEPCNT", "SYNCNT", "LINGER2", "DEFER_ACCEPT", "QUICKACK",
             "USER_TIMEOUT", "NOTSENT_LOWAT", "MAXSEG"):
    print(name, opt(s, getattr(socket, "TCP_" + name)))
for name, values in (("NODELAY", (1, 0)), ("CORK", (1, 0)), ("KEEPIDLE", (5, 0, 40000)), ("KEEPINTVL", (5, 0, 40000)),
                     ("KEEPCNT", (3, 0, 200)), ("SYNCNT", (2, 0, 200)), ("LINGER2", (10, -1)),
                     ("DEFER_ACCEPT", (0, 1, 3, 10)), ("USER_TIMEOUT", (1000, 0)), ("MAXSEG", (1000, 10, 40000))):
    for value in values:
        number = getattr(socket, "TCP_" + name)
        print(name, value, err(s.setsockopt, socket.IPPROTO_TCP, number, value), opt(s, number))
print(err(s.setsockopt, socket.IPPROTO_TCP, 9999, 1))
print(err(s.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno"), s.getsockopt(socket.IPPROTO_TCP, 13, 16)[:4])
print(err(s.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"nonesuch"))
""")


def test_peek_waitall_trunc_and_lowat(agree):
    """recv(2): MSG_PEEK, MSG_WAITALL, MSG_TRUNC; socket(7): SO_RCVLOWAT, SO_RCVTIMEO"""
    python_agrees(agree, r"""
c, s = pair(); c.sendall(b"0123456789"); time.sleep(0.05)
print(s.recv(4, socket.MSG_PEEK), s.recv(20, socket.MSG_PEEK), s.recv(3), s.recv(3, socket.MSG_TRUNC)[:0], s.recv(10))
threading.Timer(0.1, c.sendall, (b"late",)).start(); c.sendall(b"early"); print(s.recv(9, socket.MSG_WAITALL))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5); c.send(b"123"); time.sleep(0.05)
print(select.select([s], [], [], 0)[0] == []); c.send(b"45"); time.sleep(0.05); print(len(select.select([s], [], [], 0)[0]))
print(s.recv(10)); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50000)); print(err(s.recv, 1))
c.send(b"abc"); time.sleep(0.05); print(struct.unpack("i", fcntl.ioctl(s, 0x541B, b"\0" * 4)))
""")


def test_sharing_ports(agree):
    """socket(7): SO_REUSEADDR, SO_REUSEPORT; ports of connections"""
    python_agrees(agree, r"""
def bound(port, address="127.0.0.1", **flags):
    s = socket.socket()
    for name in flags: s.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
    r = err(s.bind, (address, port)); return s, r
a, _ = bound(0, SO_REUSEADDR=1); port = a.getsockname()[1]
print(bound(port)[1], bound(port, SO_REUSEADDR=1)[1], bound(port, "127.0.0.2")[1], bound(port, "0.0.0.0")[1])
a.listen(); print(bound(port, SO_REUSEADDR=1)[1]); a.close()
a, _ = bound(0, SO_REUSEPORT=1); port = a.getsockname()[1]; a.listen(); b, r = bound(port, SO_REUSEPORT=1); print(r); b.listen()
print(bound(port)[1]); cs = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]; time.sleep(0.05)
for x in (a, b): x.setblocking(False)
n = 0
for x in (a, b):
    while not isinstance(err(x.accept), str): n += 1
print(n)
""")


def test_a_listener_that_closes_resets_who_waits(agree):
    """listen(2), close(2)"""
    python_agrees(agree, r"""
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(4); c = socket.create_connection(l.getsockname()); time.sleep(0.05)
l.close(); time.sleep(0.05); print(err(c.recv, 1))
""")


def test_the_backlog_limits_who_waits(agree):
    """listen(2): the queue holds backlog + 1 connections; accept() makes room"""
    python_agrees(agree, r"""
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(1); made = []
for _ in range(2):
    made.append(socket.create_connection(l.getsockname(), timeout=1))
x = socket.socket(); x.setblocking(False); x.connect_ex(l.getsockname()); time.sleep(0.2)
print(len(made)); l.accept(); l.accept(); select.select([], [x], [], 10)
print(x.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)); l.accept()
""")


def test_bulk_data_arrives_whole(run):
    """4 MB in one direction, checked by a hash; small and large reads; a slow reader closes the window"""
    body = HEAD + r"""
import hashlib
for total, size, pause in ((4 << 20, 65536, 0), (300000, 1000, 0), (2 << 20, 200000, 0.01)):
    c, s = pair(); data = os.urandom(total)
    def reader():
        h = hashlib.sha1()
        while True:
            if pause: time.sleep(pause)
            b = s.recv(size)
            if not b: break
            h.update(b)
        s.sendall(h.digest()); s.close()
    t = threading.Thread(target=reader); t.start(); c.sendall(data); c.shutdown(socket.SHUT_WR)
    print(c.recv(100, socket.MSG_WAITALL) == hashlib.sha1(data).digest()); t.join(); c.close()
"""
    result = run([PY, "-c", body])
    assert result.status == 0, result.stderr
    assert result.stdout == b"True\n" * 3


def test_time_wait_lasts_a_minute(run):
    """A276: who closes first stays in TIME-WAIT for 60 s; the port cannot be bound meanwhile without SO_REUSEADDR."""
    body = HEAD + r"""
def states(port): return sorted(l.split()[3] for l in open("/proc/net/tcp").readlines()[1:] if ":%04X" % port in l)
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); port = l.getsockname()[1]
c = socket.create_connection(l.getsockname()); s, _ = l.accept(); print(states(port)); l.close()
s.close(); time.sleep(0.01); print(states(port)); c.close(); time.sleep(0.01); print(states(port))
def rebind():
    x = socket.socket(); r = err(x.bind, ("127.0.0.1", port)); x.close(); return r
print(rebind()); time.sleep(58); print(states(port), rebind()); time.sleep(10); print(states(port), rebind())
"""
    result = run([PY, "-c", body])
    assert result.status == 0, result.stderr
    assert result.stdout.decode().split("\n")[:-1] == [
        "['01', '01', '0A']", "['05', '08']", "['06']", "EADDRINUSE", "['06'] EADDRINUSE", "[] None"]


def test_tcp_info_tells_of_the_connection(run):
    """tcp(7): TCP_INFO"""
    body = HEAD + r"""
c, s = pair(); c.sendall(b"x" * 100000); n = 0
while n < 100000: n += len(s.recv(65536))
raw = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 300); print(len(raw), raw[0], raw[5] & 7)
rto, ato, snd_mss, rcv_mss = struct.unpack_from("4I", raw, 8); print(rto >= 200000, 32000 < snd_mss <= 65483)
acked, received = struct.unpack_from("2Q", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 300), 120); print(received)
"""
    result = run([PY, "-c", body])
    assert result.status == 0, result.stderr
    assert result.stdout.decode().split("\n")[:-1] == ["224 1 7", "True True", "100000"]


def test_a_program_of_threads_and_servers(run):
    """python3's http.server, asyncio and socketserver on one loopback"""
    body = HEAD + r"""
import asyncio, http.server, socketserver, urllib.request
os.chdir("/tmp"); data = os.urandom(200000); open("x.bin", "wb").write(data)
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=web.serve_forever, daemon=True).start()
for _ in range(3): print(urllib.request.urlopen("http://127.0.0.1:%d/x.bin" % web.server_port).read() == data)
web.shutdown(); web.server_close()
async def main():
    async def echo(r, w):
        while (b := await r.read(1000)): w.write(b); await w.drain()
        w.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0); port = server.sockets[0].getsockname()[1]
    async def client(i):
        r, w = await asyncio.open_connection("127.0.0.1", port); w.write(b"%d" % i * 50); w.write_eof()
        b = await r.read(); w.close(); return b == b"%d" % i * 50
    print(all(await asyncio.gather(*(client(i) for i in range(20))))); server.close()
asyncio.run(main())
"""
    result = run([PY, "-c", body])
    assert result.status == 0, result.stderr
    assert result.stdout == b"True\n" * 4


def test_two_runs_are_the_same(run):
    """The same program, twice: the same virtual times."""
    body = HEAD + r"""
c, s = pair(); t = time.monotonic_ns(); c.sendall(b"x" * 500000); n = 0
while n < 500000: n += len(s.recv(7777))
print(time.monotonic_ns() - t, c.getsockname())
"""
    assert run([PY, "-c", body]).stdout == run([PY, "-c", body]).stdout


def test_deferred_accept(agree):
    """tcp(7): TCP_DEFER_ACCEPT: only data makes a connection"""
    python_agrees(agree, r"""
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5); l.listen()
c = socket.create_connection(l.getsockname()); time.sleep(0.1); print(len(select.select([l], [], [], 0)[0]))
c.send(b"x"); time.sleep(0.1); print(len(select.select([l], [], [], 0)[0])); s, _ = l.accept(); print(s.recv(1))
""")


def test_cork_holds_back_and_nodelay_does_not(agree):
    """tcp(7): TCP_CORK, MSG_MORE: 200 ms at most; what is uncorked goes at once"""
    python_agrees(agree, r"""
c, s = pair(); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1); c.send(b"abc"); time.sleep(0.02)
s.setblocking(False); print(err(s.recv, 10)); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0); time.sleep(0.02)
print(s.recv(10)); c.send(b"1", socket.MSG_MORE); c.send(b"2"); time.sleep(0.02); print(s.recv(10))
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1); c.send(b"late"); time.sleep(0.5); print(s.recv(10))
""")


def test_reading_late_and_disconnecting(agree):
    """connect(2): AF_UNSPEC ends a connection; its socket may connect again"""
    python_agrees(agree, r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
c = socket.socket(); c.connect(l.getsockname()); s, _ = l.accept()
print(libc.connect(c.fileno(), bytes(16), 16)); time.sleep(0.05); print(err(s.recv, 1), err(c.getpeername))
c.connect(l.getsockname()); s, _ = l.accept(); c.send(b"again"); print(s.recv(10))
""")


def test_sendfile_and_splice(agree):
    """sendfile(2) to a socket, splice(2) from it"""
    python_agrees(agree, r"""
data = os.urandom(100000); open("f", "wb").write(data); c, s = pair()
t = threading.Thread(target=lambda: (os.sendfile(c.fileno(), os.open("f", os.O_RDONLY), 0, 100000), c.close())); t.start()
got = b""
while (b := s.recv(65536)): got += b
print(got == data); t.join()
c, s = pair(); c.send(b"through a pipe"); r, w = os.pipe(); print(os.splice(s.fileno(), w, 100), os.read(r, 100))
""")


def test_variables_act(run):
    """/proc/sys/net/ipv4: tcp_fin_timeout, tcp_congestion_control, tcp_rmem, tcp_timestamps"""
    body = HEAD + r"""
def sysctl(name, value=None):
    path = "/proc/sys/net/ipv4/" + name
    if value is None: return open(path).read().strip()
    try: os.write(os.open(path, os.O_WRONLY), value.encode())
    except OSError as e: return errno.errorcode[e.errno]
print(sysctl("tcp_congestion_control"), sysctl("tcp_congestion_control", "bbr"), sysctl("tcp_congestion_control", "reno"))
s = socket.socket(); print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0"))
print(sysctl("tcp_available_congestion_control"), sysctl("tcp_fin_timeout", "5"), sysctl("tcp_rmem", "4096 50000 100000"))
s = socket.socket(); print(s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
sysctl("tcp_timestamps", "0"); sysctl("tcp_window_scaling", "0"); c, s = pair()
print(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]); c.close(); time.sleep(0.01)
def states(): return [l.split()[3] for l in open("/proc/net/tcp").readlines()[1:]]
print(sorted(states())); time.sleep(7); print(sorted(states()))
"""
    result = run([PY, "-c", body])
    assert result.status == 0, result.stderr
    assert result.stdout.decode().split("\n")[:-1] == [
        "cubic ENOENT None", "b'reno'", "reno cubic None None", "50000", "2", "['05', '08']", "['08']"]
