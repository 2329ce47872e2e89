"""Waiting: epoll, poll, eventfd, timerfd, signalfd, splice, FIFOs, inotify, limits. Expected: readiness.txt."""
# ruff: noqa: E731, SIM115    files left open are part of it

import ctypes
import fcntl
import os
import resource
import select
import signal
import struct
import threading
import time

from checks import sc, t

# --- epoll
ep = select.epoll()
r, w = os.pipe()
t("reg", ep.register, r, select.EPOLLIN)
t("reg twice", ep.register, r, select.EPOLLIN)
t("mod none", ep.modify, w, 1)
t("unreg none", ep.unregister, w)
t("reg file", ep.register, os.open("/etc/passwd", 0), 1)
t("reg self", ep.register, ep.fileno(), 1)
t("reg bad", ep.register, 77, 1)
ev = lambda e, n=-1, to=0: sorted((("r" if f == r else "w" if f == w else f), m) for f, m in e.poll(to, n))
t("poll empty", ev, ep)
os.write(w, b"ab")
t("LT1", ev, ep)
t("LT2", ev, ep)
os.read(r, 1)
t("LT3", ev, ep)
os.read(r, 1)
t("LT4", ev, ep)
ep.modify(r, select.EPOLLIN | select.EPOLLET)
os.write(w, b"ab")
t("ET1", ev, ep)
t("ET2", ev, ep)
os.write(w, b"c")
t("ET3", ev, ep)
os.read(r, 1)
t("ET4", ev, ep)
os.read(r, 9)
ep.modify(r, select.EPOLLIN | select.EPOLLONESHOT)
os.write(w, b"a")
t("OS1", ev, ep)
t("OS2", ev, ep)
os.write(w, b"a")
t("OS3", ev, ep)
ep.modify(r, select.EPOLLIN | select.EPOLLONESHOT)
t("OS4", ev, ep)
os.read(r, 9)
ep.modify(r, select.EPOLLIN)
ep.register(w, select.EPOLLOUT)
t("both", ev, ep)
ep2 = select.epoll()
ep2.register(ep.fileno(), select.EPOLLIN)
t("nested", lambda: len(ep2.poll(0)))
t("loop", ep.register, ep2.fileno(), 1)
ep.unregister(w)
t("nested none", lambda: len(ep2.poll(0)))
os.write(w, b"x")
t("nested again", lambda: len(ep2.poll(0)))
d = os.dup(r)
os.close(r)
t("closed but dup", lambda: len(ep.poll(0)))
os.close(d)
t("closed", lambda: len(ep.poll(0)))
t("nested closed", lambda: len(ep2.poll(0)))
t(
    "excl mod",
    lambda: (lambda p: (ep.register(p[0], select.EPOLLIN | select.EPOLLEXCLUSIVE), ep.modify(p[0], select.EPOLLIN)))(
        os.pipe()
    ),
)
t("maxevents 0", sc, 232, ep.fileno(), ctypes.create_string_buffer(12), 0, 0)
t("epoll_wait not ep", sc, 232, w, ctypes.create_string_buffer(12), 1, 0)
t("create -1", sc, 213, 0)
t("create1 bad", sc, 291, 1)
t("epoll read", os.read, ep.fileno(), 1)
t0 = time.monotonic()
ep3 = select.epoll()
ep3.poll(0.05)
t("timeout", lambda: 0.045 < time.monotonic() - t0 < 0.5)
# hup
r, w = os.pipe()
ep = select.epoll()
ep.register(r, select.EPOLLIN)
ep.register(w, select.EPOLLOUT)
os.close(w)
t("hup", ev, ep)
os.close(r)
r, w = os.pipe()
p = select.poll()
p.register(r, select.POLLIN)
p.register(w, select.POLLOUT)
pv = lambda: sorted((("r" if f == r else "w"), m) for f, m in p.poll(0))
t("poll", pv)
os.write(w, b"x")
t("poll2", pv)
os.close(w)
t("poll nval", pv)
p.unregister(w)
os.read(r, 1)
t("poll hup", pv)
t("select", lambda: [x == r for x in select.select([r], [], [], 0)[0]])
t("poll nfds", sc, 7, ctypes.create_string_buffer(8), 1 << 30, 0)
# threads wake
r, w = os.pipe()
threading.Timer(0.05, lambda: os.write(w, b"z")).start()
t("blocking read", os.read, r, 10)
threading.Timer(0.05, lambda: os.write(w, b"z")).start()
t("blocking select", lambda: bool(select.select([r], [], [], 5)[0]))
os.read(r, 1)
ep = select.epoll()
ep.register(r, 1)
threading.Timer(0.05, lambda: os.write(w, b"z")).start()
t("blocking epoll", lambda: len(ep.poll(5)))
os.read(r, 1)
threading.Timer(0.05, lambda: os.close(w)).start()
t("read eof", os.read, r, 10)
# signals
signal.signal(signal.SIGALRM, lambda *a: None)
signal.siginterrupt(signal.SIGALRM, True)
r, w = os.pipe()


def cread():
    b = ctypes.create_string_buffer(4)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    return sc(0, r, b, 4)


t("EINTR read", cread)


def cpoll(nr, *a):
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    return sc(nr, *a)


pf = ctypes.create_string_buffer(struct.pack("ihh", r, 1, 0), 8)
t("EINTR poll", cpoll, 7, pf, 1, -1)
t("EINTR epoll", cpoll, 232, ep3.fileno(), ctypes.create_string_buffer(12), 1, -1)
signal.siginterrupt(signal.SIGALRM, False)
t("EINTR poll SA_RESTART", cpoll, 7, pf, 1, -1)


def cread2():
    b = ctypes.create_string_buffer(4)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    threading.Timer(0.1, lambda: os.write(w, b"late")).start()
    return sc(0, r, b, 4), b.raw


t("restart read", cread2)
# eventfd
e = os.eventfd(3)
t("efd", os.eventfd_read, e)
e = os.eventfd(2, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
t("sem", lambda: (os.eventfd_read(e), os.eventfd_read(e)))
t("sem again", os.eventfd_read, e)
t("short", os.read, e, 4)
t("max", os.write, e, b"\xff" * 8)
t("almost", os.write, e, b"\xfe" + b"\xff" * 7)
t("full", os.write, e, b"\1" + b"\0" * 7)
p = select.poll()
p.register(e, select.POLLIN | select.POLLOUT)
t("pollfull", lambda: p.poll(0)[0][1])
t("bad", os.eventfd, 0, 0x1000000)
# timerfd
fd = sc(283, 1, 0o4000)
t("tfd read", os.read, fd, 8)
sc(286, fd, 0, struct.pack("4q", 0, 10_000_000, 0, 20_000_000), 0)
time.sleep(0.055)
t("ticks", lambda: struct.unpack("Q", os.read(fd, 8))[0])
b = ctypes.create_string_buffer(32)
sc(287, fd, b)
v = struct.unpack("4q", b.raw)
t("gettime", lambda: (v[0], v[1], v[2], 0 < v[3] <= 10_000_000))
t("badclock", sc, 283, 99, 0)
t("bad settime", sc, 286, fd, 0, struct.pack("4q", 0, 2_000_000_000, 0, 0), 0)
t("not tfd", sc, 287, r, b)
sc(286, fd, 0, struct.pack("4q", 0, 0, 0, 0), 0)
sc(287, fd, b)
t("off", lambda: struct.unpack("4q", b.raw))
# signalfd
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
fd = sc(289, -1, struct.pack("Q", 1 << 9 | 1 << 11), 8, 0o4000)
t("sfd empty", os.read, fd, 128)
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
p = select.poll()
p.register(fd, 1)
t("sfd poll", lambda: p.poll(0)[0][1])
d = os.read(fd, 512)
t("sfd", lambda: [struct.unpack_from("I", d, i)[0] for i in range(0, len(d), 128)])
t("sfd pid", lambda: struct.unpack_from("I", d, 12)[0] == os.getpid())
t("sfd short", os.read, fd, 100)
# splice, tee
r, w = os.pipe()
r2, w2 = os.pipe()
os.write(w, b"hello")
t("tee", sc, 276, r, w2, 3, 0)
t("tee data", os.read, r2, 9)
t("splice", os.splice, r, w2, 4)
t("data", os.read, r2, 9)
f = os.open("sp", os.O_CREAT | os.O_RDWR)
os.write(f, b"0123456789" * 1000)
t("splice f2p", os.splice, f, w2, 70000, offset_src=5)
t("d", lambda: os.read(r2, 70000) == (b"0123456789" * 1000)[5:])
t("splice p2f", os.splice, r, f, 100, offset_dst=3)
t("d", os.pread, f, 6, 0)
t("both off", os.splice, f, f, 10)
t("pipe off", os.splice, r, w2, 10, offset_src=0)
t("same", os.splice, r, w, 10)
t("nb", os.splice, r, w2, 10, flags=2)
io = struct.pack("QQ", ctypes.addressof(b), 5)
b[0:5] = b"vmspl"
t("vmsplice", sc, 278, w, io, 1, 0)
t("d", os.read, r, 9)
# O_DIRECT packets
r, w = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
os.write(w, b"one")
os.write(w, b"two")
t("pkt", lambda: (os.read(r, 100), os.read(r, 2)))
t("pkt rest lost", os.read, r, 9)
# fifo
os.mkfifo("ff")
pid = os.fork()
if pid == 0:
    fd = os.open("ff", 1)
    os.write(fd, b"fifo")
    os._exit(0)
fd = os.open("ff", 0)
t("fifo", lambda: (os.read(fd, 10), os.read(fd, 10)))
os.waitpid(pid, 0)
os.close(fd)
t("nb wr", os.open, "ff", os.O_WRONLY | os.O_NONBLOCK)
fd = os.open("ff", os.O_RDONLY | os.O_NONBLOCK)
p = select.poll()
p.register(fd, 1)
t("nohup yet", p.poll, 0)
fw = os.open("ff", os.O_WRONLY)
os.close(fw)
t("hup", lambda: p.poll(0)[0][1])
t("eof", os.read, fd, 1)
fd = os.open("ff", os.O_RDWR)
os.write(fd, b"q")
t("rdwr", os.read, fd, 1)
# inotify
fd = sc(294, 0o4000)
os.mkdir("ino")
wd = sc(254, fd, b"ino", 0xFFF)


def evs():
    try:
        d = os.read(fd, 8192)
    except BlockingIOError:
        return []
    o = []
    i = 0
    ck = {}
    while i < len(d):
        wd_, m, c, l = struct.unpack_from("iIII", d, i)
        o.append((wd_, hex(m), ck.setdefault(c, len(ck)) if c else 0, d[i + 16 : i + 16 + l].rstrip(b"\0")))
        i += 16 + l
    return o


open("ino/a", "w").write("x")
t("create+write", evs)
open("ino/a").read()
t("read", evs)
os.rename("ino/a", "ino/b")
t("rename", evs)
os.chmod("ino/b", 0o600)
t("chmod", evs)
os.mkdir("ino/d")
t("mkdir", evs)
os.listdir("ino")
t("listdir", evs)
os.link("ino/b", "ino/c")
t("link", evs)
os.unlink("ino/b")
t("unlink", evs)
os.truncate("ino/c", 0)
t("truncate", evs)
os.utime("ino/c")
t("utime", evs)
os.rename("ino/c", "outside")
t("mv out", evs)
os.rename("outside", "ino/c")
t("mv in", evs)
os.symlink("x", "ino/s")
t("symlink", evs)
wd2 = sc(254, fd, b"ino/c", 0xFFF)
os.unlink("ino/c")
t("unlink watched", evs)
os.unlink("ino/s")
os.rmdir("ino/d")
evs()
os.rmdir("ino")
t("rmdir watched", evs)
t("rm_watch", sc, 255, fd, wd)
t("watch nope", sc, 254, fd, b"nope", 2)
t("watch 0", sc, 254, fd, b".", 0)
wd = sc(254, fd, b".", 0x100 | 0x80000000)
open("o1", "w").close()
open("o2", "w").close()
t("oneshot", evs)
t("onlydir", sc, 254, fd, b"o1", 0x01000002)
# sigio
fd, w = os.pipe()
got = []
signal.signal(signal.SIGIO, lambda *a: got.append(1))
fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC)
os.write(w, b"x")
t("sigio", lambda: got)
t("getown", lambda: fcntl.fcntl(fd, fcntl.F_GETOWN) == os.getpid())
# rlimits
signal.signal(signal.SIGXFSZ, lambda *a: got.append("xfsz"))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
f = os.open("lim", os.O_CREAT | os.O_RDWR)
t("w15", os.write, f, b"x" * 15)
t("w1", os.write, f, b"x")
t("trunc", os.ftruncate, f, 100)
t("got", lambda: got)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, 4096))
l = []


def many():
    while True:
        l.append(os.dup(0))


t("EMFILE", many)
[os.close(x) for x in l]
t("poll nfds lim", sc, 7, ctypes.create_string_buffer(8), 5000, 0)
# times & atime
open("at", "w").write("x")
s = os.stat("at")
t("same", lambda: s.st_mtime_ns == s.st_ctime_ns)
os.utime("at", (1, 1))
open("at").read()
t("relatime", lambda: os.stat("at").st_atime > 1)
f = os.open("at", os.O_NOATIME)
os.utime("at", (1, 2))
os.read(f, 1)
t("noatime", lambda: os.stat("at").st_atime)
