"""Names, descriptors, file contents, owners, locks: what each call answers. The expected output is vfs_calls.txt."""
# ruff: noqa: B023, SIM105, SIM115    every lambda is called at once; files left open are part of it

import fcntl
import mmap
import os
import select
import signal
import stat
import struct
import sys

from checks import sc, t

os.umask(0o022)
W = os.getcwd()


def w(name, data=b"x", mode=0o644):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    os.write(fd, data)
    os.close(fd)


# --- path errors
w("f", b"hello")
os.mkdir("d")
os.symlink("f", "lf")
os.symlink("d", "ld")
os.symlink("nowhere", "dang")
os.symlink("loop", "loop")
for p in [
    "",
    "f/",
    "f/x",
    "d/",
    "d/.",
    "d/..",
    "nope",
    "nope/",
    "nope/x",
    "lf",
    "lf/",
    "ld",
    "ld/",
    "dang",
    "loop",
    "loop/x",
    ".",
    "..",
    "/",
    "//",
    "///d",
    "d//",
    "x" * 255,
    "x" * 256,
    "x/" * 2047 + "x",
    "x/" * 2048,
    "a/" + "y" * 4100,
]:
    n = p if len(p) < 20 else f"{p[:4]}*{len(p)}"
    t(f"stat {n}", lambda: stat.S_IFMT(os.stat(p).st_mode))
    t(f"lstat {n}", lambda: stat.S_IFMT(os.lstat(p).st_mode))
    t(f"open RD fd {n}", lambda: os.close(os.open(p, os.O_RDONLY)))
    t(f"open WR fd {n}", lambda: os.close(os.open(p, os.O_WRONLY)))
    t(f"open NOFOLLOW fd {n}", lambda: os.close(os.open(p, os.O_RDONLY | os.O_NOFOLLOW)))
    t(f"open DIR fd {n}", lambda: os.close(os.open(p, os.O_RDONLY | os.O_DIRECTORY)))
    t(f"open PATH fd {n}", lambda: os.close(os.open(p, os.O_PATH | os.O_NOFOLLOW)))
    t(f"open CREXCL fd {n}", lambda: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    try:
        if p and p not in ("f", "d", "lf", "ld", "dang", "loop") and os.path.lexists(p) and not os.path.isdir(p):
            os.unlink(p)
    except OSError:
        pass
    t(f"mkdir {n}", os.mkdir, p)
    t(f"rmdir {n}", os.rmdir, p)
    t(f"unlink {n}", os.unlink, p) if p not in ("f", "d", "lf", "ld", "dang", "loop", "lf/", "f/") else None
    t(f"readlink {n}", os.readlink, p)
    t(f"truncate {n}", os.truncate, p, 5) if "d" not in p else None
    t(f"access {n}", os.access, p, os.R_OK)
    if not os.path.isdir("d"):
        os.mkdir("d")
t("unlink f/", os.unlink, "f/")
t("unlink lf/", os.unlink, "lf/")
t("unlink ld/", os.unlink, "ld/")
t("rmdir ld", os.rmdir, "ld")
t("rmdir ld/", os.rmdir, "ld/")
t("rmdir f", os.rmdir, "f")
if not os.path.isdir("d"):
    os.mkdir("d")
# --- creat variants
t("creat dang", lambda: os.close(os.open("dang", os.O_CREAT | os.O_WRONLY)))
t("exists nowhere", os.path.exists, "nowhere")
os.unlink("nowhere")
t("creat excl dang", lambda: os.close(os.open("dang", os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
t("creat new/", lambda: os.close(os.open("new/", os.O_CREAT | os.O_WRONLY)))
t("creat d", lambda: os.close(os.open("d", os.O_CREAT | os.O_WRONLY)))
t("creat d rdonly", lambda: os.close(os.open("d", os.O_CREAT)))
t("open d WR", os.open, "d", os.O_WRONLY)
t("open d RDWR", os.open, "d", os.O_RDWR)
t("open d TRUNC", os.open, "d", os.O_TRUNC)
t("tmpfile fd", lambda: os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY)))
t("tmpfile ro", os.open, ".", os.O_TMPFILE | os.O_RDONLY)
t("tmpfile f", os.open, "f", os.O_TMPFILE | os.O_WRONLY)
fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
os.write(fd, b"tmp")
t("tmpfile nlink", lambda: os.fstat(fd).st_nlink)
t("link tmpfile", os.link, f"/proc/self/fd/{fd}", "fromtmp", follow_symlinks=True)
t("read fromtmp", lambda: open("fromtmp", "rb").read())
os.close(fd)
fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
t("link tmpfile excl", os.link, f"/proc/self/fd/{fd}", "fromtmp2", follow_symlinks=True)
os.close(fd)
# --- link/rename
t("link f f", os.link, "f", "f")
t("link f g", os.link, "f", "g")
t("nlink", lambda: os.stat("f").st_nlink)
t("link d d2", os.link, "d", "d2")
t("link nope", os.link, "nope", "n2")
t("link f nope/x", os.link, "f", "nope/x")
t("link f g/", os.link, "f", "newg/")
t("link lf nofollow", lambda: (os.link("lf", "llf", follow_symlinks=False), os.path.islink("llf")))
t("rename f g same", os.rename, "f", "g")
t("both", lambda: (os.path.exists("f"), os.path.exists("g")))
os.mkdir("e")
w("e/x")
os.mkdir("h")
for a, b in [
    ("f", "e"),
    ("e", "f"),
    ("d", "e"),
    ("e", "d"),
    ("h", "h/sub"),
    ("h", "h"),
    ("e", "e/x"),
    ("e/x", "e"),
    (".", "q"),
    ("d/.", "q"),
    ("..", "q"),
    ("f", "."),
    ("f", ".."),
    ("nope", "q"),
    ("f", "nope/q"),
    ("f/", "q"),
    ("d", "q/"),
    ("f", "q/"),
    ("f", "d/"),
    ("lf", "lq"),
    ("/", "q"),
    ("f", "/"),
]:
    t(f"rename {a} {b}", os.rename, a, b)
t("ls", lambda: sorted(os.listdir(".")))
for fl in range(0, 9):
    w("ra")
    w("rb", b"yy")
    t(f"renameat2 {fl} ra rb", sc, 316, -100, b"ra", -100, b"rb", fl)
    t("  state", lambda: (os.path.exists("ra"), os.stat("rb").st_size))
    t(f"renameat2 {fl} rb rc", sc, 316, -100, b"rb", -100, b"rc", fl)
    for x in ("ra", "rb", "rc"):
        try:
            os.unlink(x)
        except OSError:
            pass
os.mkdir("xa")
w("xa/1")
w("xb")
t("exchange dir file", sc, 316, -100, b"xa", -100, b"xb", 2)
t("isdir", lambda: (os.path.isdir("xa"), os.path.isdir("xb"), os.listdir("xb")))
t("exchange into self", sc, 316, -100, b"xb", -100, b"xb/1", 2)
# --- modes, sgid, sticky
os.mkdir("sg")
os.chown("sg", 0, 100)
os.chmod("sg", 0o2775)
w("sg/f")
os.mkdir("sg/d")
t("sgid", lambda: (os.stat("sg/f").st_gid, oct(os.stat("sg/d").st_mode), os.stat("sg/d").st_gid))
w("su")
os.chmod("su", 0o6755)
fd = os.open("su", os.O_WRONLY)
os.write(fd, b"a")
os.close(fd)
t("suid write root", lambda: oct(os.stat("su").st_mode))
os.chown("su", 1, 1)
t("suid chown", lambda: oct(os.stat("su").st_mode))
os.chmod("su", 0o2644)
os.chown("su", 2, 2)
t("sgid noexec chown", lambda: oct(os.stat("su").st_mode))
t("mkdir mode", lambda: (os.mkdir("m1", 0o7777), oct(os.stat("m1").st_mode)))
t("creat mode", lambda: (os.close(os.open("m2", os.O_CREAT, 0o7777)), oct(os.stat("m2").st_mode)))
t("mknod dir", os.mknod, "n1", stat.S_IFDIR | 0o755)
t("mknod fifo", os.mknod, "n2", stat.S_IFIFO | 0o644)
t("mknod sock", os.mknod, "n3", stat.S_IFSOCK | 0o644)
t("mknod reg", os.mknod, "n4", 0o640)
t("mknod lnk", os.mknod, "n5", stat.S_IFLNK)
t("mknod chr", os.mknod, "n6", stat.S_IFCHR | 0o600, os.makedev(1, 3))
t("rdev", lambda: os.stat("n6").st_rdev)
t("open sock", os.open, "n3", os.O_RDONLY)
t("open fifo nb wr", os.open, "n2", os.O_WRONLY | os.O_NONBLOCK)
# --- as nobody
os.mkdir("pub", 0o777)
os.chmod("pub", 0o1777)
w("pub/rootf")
os.mkdir("priv", 0o700)
w("priv/x")
w("ro", b"1", 0o444)
w("noaccess", b"1", 0o600)
os.chmod(W, 0o755)
pid = os.fork()
if pid == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    for lab, f in [
        ("unlink sticky", lambda: os.unlink("pub/rootf")),
        ("rename sticky", lambda: os.rename("pub/rootf", "pub/z")),
        ("creat pub", lambda: os.close(os.open("pub/mine", os.O_CREAT | os.O_WRONLY))),
        ("creat .", lambda: os.open("zzz", os.O_CREAT)),
        ("open priv/x", lambda: os.open("priv/x", 0)),
        ("stat priv/x", lambda: os.stat("priv/x")),
        ("ls priv", lambda: os.listdir("priv")),
        ("cd priv", lambda: os.chdir("priv")),
        ("open ro wr", lambda: os.open("ro", 1)),
        ("open ro rd", lambda: os.close(os.open("ro", 0))),
        ("noaccess", lambda: os.open("noaccess", 0)),
        ("chmod ro", lambda: os.chmod("ro", 0o777)),
        ("chown ro", lambda: os.chown("ro", 65534, 65534)),
        ("chown mine", lambda: os.chown("pub/mine", 0, 0)),
        ("chgrp mine self", lambda: os.chown("pub/mine", -1, 65534)),
        ("chown mine 0", lambda: os.chown("pub/mine", 65534, 0)),
        ("chmod mine sgid", lambda: (os.chmod("pub/mine", 0o2755), oct(os.stat("pub/mine").st_mode))),
        ("utime ro now", lambda: os.utime("ro")),
        ("utime ro set", lambda: os.utime("ro", (1, 1))),
        ("utime mine", lambda: os.utime("pub/mine", (1, 1))),
        ("mknod chr", lambda: os.mknod("pub/c", stat.S_IFCHR | 0o600, 259)),
        ("chroot", lambda: os.chroot(".")),
        ("access W ro", lambda: os.access("ro", os.W_OK)),
        ("link ro", lambda: os.link("ro", "pub/rolink")),
        ("trunc ro", lambda: os.truncate("ro", 0)),
        ("O_NOATIME ro", lambda: os.open("ro", os.O_NOATIME)),
        ("mkdir mode", lambda: (os.mkdir("pub/md", 0o2777), oct(os.stat("pub/md").st_mode))),
        ("setxattr", lambda: os.setxattr("ro", "trusted.x", b"1")),
        ("listdir .", lambda: len(os.listdir(".")) > 3),
    ]:
        t("nobody " + lab, f)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
# --- descriptors
r, wfd = os.pipe()
t("dup2 bad", os.dup2, 99, 5)
t("fcntl DUPFD big", fcntl.fcntl, r, fcntl.F_DUPFD, 1 << 30)
t("getfl r", lambda: oct(fcntl.fcntl(r, fcntl.F_GETFL)))
t("getfl w", lambda: oct(fcntl.fcntl(wfd, fcntl.F_GETFL)))
t("read wr end", os.read, wfd, 1)
t("write rd end", os.write, r, b"x")
t("lseek pipe", os.lseek, r, 0, 0)
t("pread pipe", os.pread, r, 1, 0)
t("ftruncate pipe", os.ftruncate, wfd, 0)
t("fsync pipe", os.fsync, wfd)
t("fchdir pipe", os.fchdir, r)
t("pipesz", fcntl.fcntl, r, 1032)
t("setpipesz", fcntl.fcntl, r, 1031, 5000)
t("setpipesz 0", fcntl.fcntl, r, 1031, 0)
t("setpipesz f", lambda: fcntl.fcntl(os.open("f", 0), 1031, 4096))
os.set_blocking(wfd, False)
os.set_blocking(r, False)
n = 0
try:
    while True:
        n += os.write(wfd, b"a" * 4096)
except BlockingIOError:
    pass
print("pipe filled", n)
t("write more", os.write, wfd, b"x")
os.read(r, 100)
t("write after 100", os.write, wfd, b"x" * 10)
os.read(r, 4096 - 100)
t("write after page", os.write, wfd, b"y" * 5000)
while True:
    try:
        if not os.read(r, 65536):
            break
    except BlockingIOError:
        break
fcntl.fcntl(r, 1031, 65536)
n = 0
try:
    while True:
        n += os.write(wfd, b"a" * 3000)
except BlockingIOError:
    pass
print("pipe filled 3000", n)
n = struct.unpack("i", fcntl.ioctl(r, 0x541B, b"0000"))[0]
print("FIONREAD", n)
t("poll full w", lambda: select.select([r], [wfd], [], 0)[1] == [])
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
os.close(r)
t("EPIPE", os.write, wfd, b"x")
p = select.poll()
p.register(wfd, select.POLLOUT)
t("poll no reader", lambda: [e for _, e in p.poll(0)])
os.close(wfd)
t("close bad", os.close, 999)
t("dup bad", os.dup, 999)
fd = os.open("f", os.O_PATH)
t("O_PATH read", os.read, fd, 1)
t("O_PATH fstat", lambda: os.fstat(fd).st_size)
t("O_PATH fchmod", os.fchmod, fd, 0o644)
t("O_PATH getfl", lambda: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
t("O_PATH ioctl", fcntl.ioctl, fd, 0x541B, b"0000")
t("O_PATH dup fd", lambda: os.close(os.dup(fd)))
t("reopen", lambda: os.read(os.open(f"/proc/self/fd/{fd}", 0), 5))
os.close(fd)
# --- file io
fd = os.open("io", os.O_RDWR | os.O_CREAT, 0o644)
t("pwrite far", os.pwrite, fd, b"end", 10000)
t("size", lambda: os.fstat(fd).st_size)
t("hole", lambda: os.pread(fd, 5, 5000))
t("SEEK_DATA", os.lseek, fd, 0, os.SEEK_DATA)
t("SEEK_HOLE", os.lseek, fd, 0, os.SEEK_HOLE)
t("SEEK_HOLE2", os.lseek, fd, 9000, os.SEEK_HOLE)
t("SEEK_DATA end", os.lseek, fd, 20000, os.SEEK_DATA)
t("lseek neg", os.lseek, fd, -1, 0)
t("lseek bad", os.lseek, fd, 0, 9)
t("blocks", lambda: os.fstat(fd).st_blocks)
t("pread neg", os.pread, fd, 1, -1)
t("ftruncate", os.ftruncate, fd, 3)
t("ftrunc neg", os.ftruncate, fd, -1)
t("ftrunc grow", lambda: (os.ftruncate(fd, 6), os.pread(fd, 10, 0)))
t("fallocate", os.posix_fallocate, fd, 0, 20000)
t("sz", lambda: (os.fstat(fd).st_size, os.fstat(fd).st_blocks))
t("punch", sc, 285, fd, 3, 4096, 8192)
t("blk", lambda: os.fstat(fd).st_blocks)
t("falloc bad", sc, 285, fd, 2, 0, 10)
t("falloc neg", sc, 285, fd, 0, -1, 10)
t("falloc keep", lambda: (sc(285, fd, 1, 0, 100000), os.fstat(fd).st_size))
t("collapse", sc, 285, fd, 8, 0, 4096)
t(
    "readv",
    lambda: [bytes(x) for x in (lambda a, b: (os.preadv(fd, [a, b], 0), a, b))(bytearray(2), bytearray(3))[1:]],
)
t("writev", os.writev, fd, [b"ab", b"cd"])
t(
    "O_APPEND",
    lambda: (lambda f: (os.lseek(f, 0, 0), os.write(f, b"Z"), os.lseek(f, 0, 1)))(
        os.open("io", os.O_WRONLY | os.O_APPEND)
    ),
)
t(
    "pwrite append",
    lambda: (lambda f: (os.pwrite(f, b"Q", 0), os.fstat(f).st_size))(os.open("io", os.O_WRONLY | os.O_APPEND)),
)
t("read dir", os.read, os.open(".", 0), 10)
t("write ro fd", os.write, os.open("f", 0), b"x")
t("preadv2 flags", os.preadv, fd, [bytearray(1)], 0, 0x1000)
t("mmap dir", mmap.mmap, os.open(".", 0), 10, mmap.MAP_SHARED, mmap.PROT_READ)
m = mmap.mmap(fd, 8192)
m[0:3] = b"MMP"
t("mmap seen", os.pread, fd, 3, 0)
m.close()
t("copy_file_range", lambda: os.copy_file_range(os.open("f", 0), os.open("cfr", os.O_CREAT | os.O_RDWR), 100))
t("sendfile", lambda: os.sendfile(os.open("sf", os.O_CREAT | os.O_RDWR), os.open("f", 0), 0, 100))
t("sendfile append", lambda: os.sendfile(os.open("sf", os.O_WRONLY | os.O_APPEND), os.open("f", 0), 0, 100))
t("sendfile pipe in", lambda: os.sendfile(os.open("sf", os.O_WRONLY), os.pipe()[0], None, 100))
# --- locks
fd2 = os.open("io", os.O_RDWR)
t("flock", fcntl.flock, fd, fcntl.LOCK_EX)
t("flock2", fcntl.flock, fd2, fcntl.LOCK_EX | fcntl.LOCK_NB)
t("flock dup", fcntl.flock, os.dup(fd), fcntl.LOCK_SH | fcntl.LOCK_NB)
t("flock2 sh", fcntl.flock, fd2, fcntl.LOCK_SH | fcntl.LOCK_NB)
t("flock bad", fcntl.flock, fd, 64)
fcntl.lockf(fd, fcntl.LOCK_EX, 100, 0)
pid = os.fork()
if pid == 0:
    t("child lockf", fcntl.lockf, fd2, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
    t("child lockf beyond", fcntl.lockf, fd2, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
    r = fcntl.fcntl(fd2, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    print("getlk", struct.unpack("hhqqi4x", r)[:4], struct.unpack("hhqqi4x", r)[4] == os.getppid())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
t("ofd", fcntl.fcntl, fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1000, 10, 0))
t("ofd conflict", fcntl.fcntl, fd2, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1000, 10, 0))
# --- misc
t("getcwd", lambda: os.getcwd() == W)
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
t("getcwd gone", os.getcwd)
t("creat in gone", os.open, "x", os.O_CREAT)
t("ls gone", os.listdir, ".")
t("stat ..", lambda: bool(os.stat("..")))
os.chdir(W)
t("listxattr", os.listxattr, "f")
t("getxattr", os.getxattr, "f", "trusted.a")
t("setxattr", os.setxattr, "f", "trusted.a", b"v")
t("getxattr2", os.getxattr, "f", "trusted.a")
t("setxattr create", os.setxattr, "f", "trusted.a", b"v", os.XATTR_CREATE)
t("removexattr", os.removexattr, "f", "trusted.a")
t("rm2", os.removexattr, "f", "trusted.a")
t("weird xattr", os.getxattr, "f", "foo.a")
fd = os.memfd_create("mm", os.MFD_ALLOW_SEALING)
os.ftruncate(fd, 100)
t("seal", fcntl.fcntl, fd, 1033, 2 | 4)
t("shrink", os.ftruncate, fd, 10)
t("grow", os.ftruncate, fd, 1000)
t("get_seals", fcntl.fcntl, fd, 1034)
t("seal w", fcntl.fcntl, fd, 1033, 8)
t("write sealed", os.write, fd, b"x")
t("mmap sealed", mmap.mmap, fd, 100)
t("readlink memfd", lambda: os.readlink(f"/proc/self/fd/{fd}"))
t("seals f", fcntl.fcntl, os.open("f", 0), 1034)
t("memfd long", os.memfd_create, "x" * 250)
t("memfd noseal", lambda: fcntl.fcntl(os.memfd_create("a"), 1033, 2))
t("statvfs", lambda: os.statvfs(".").f_namemax)
t(
    "utime",
    lambda: (
        os.utime("f", ns=(123456789012345678, 987654321098765432)),
        os.stat("f").st_atime_ns,
        os.stat("f").st_mtime_ns,
    ),
)
t("utimensat bad", sc, 280, -100, b"f", struct.pack("4q", 0, 2000000000, 0, 0), 0)
t("openat2", lambda *a: sc(*a) > 2, 437, -100, b"f", struct.pack("QQQ", 0, 0, 8), 24)
t("openat2 beneath ..", sc, 437, -100, b"../x", struct.pack("QQQ", 0, 0, 8), 24)
t("openat2 abs", sc, 437, -100, b"/etc", struct.pack("QQQ", 0, 0, 8), 24)
t("openat2 nosym", sc, 437, -100, b"lf", struct.pack("QQQ", 0, 0, 4), 24)
t("openat2 badflag", sc, 437, -100, b"f", struct.pack("QQQ", 1 << 40, 0, 0), 24)
t("openat2 size", sc, 437, -100, b"f", struct.pack("QQQ", 0, 0, 0), 8)
t("openat2 inroot", lambda *a: sc(*a) > 2, 437, os.open(".", 0), b"/../f", struct.pack("QQQ", 0, 0, 16), 24)
t("close_range", sc, 436, 500, 400, 0)
t("sync", os.sync)
t("umask", lambda: (os.umask(0o77), os.umask(0o22)))
t("faccessat2", sc, 439, -100, b"f", 8, 0)
t("access X", os.access, "f", os.X_OK)
t("access X d", os.access, "d", os.X_OK)
