"""fcntl(2), F_NOTIFY: what happens in a directory is told by a signal."""
import fcntl
import os
import signal

RT = signal.SIGRTMIN + 2
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO, RT])
os.mkdir("d")
os.mkdir("other")
fd = os.open("d", os.O_RDONLY)


def pending():
    told = []
    while (info := signal.sigtimedwait([signal.SIGIO, RT], 0)) is not None:
        rt = info.si_signo == RT
        told.append(("rt" if rt else "io", info.si_code, hex(info.si_band) if rt else None))
    return told


def step(name, action):
    action()
    print(name, pending())


def create(name):
    with open(name, "w"):
        pass


def write(name):
    with open(name, "a") as f:
        f.write("x")


def read(name):
    with open(name) as f:
        return f.read()


def attempt(name, *arguments):
    try:
        print(name, fcntl.fcntl(*arguments))
    except OSError as error:
        print(name, error.errno)


STEPS = [("create", lambda: create("d/a")), ("write", lambda: write("d/a")), ("read", lambda: read("d/a")),
         ("chmod", lambda: os.chmod("d/a", 0o600)), ("rename", lambda: os.rename("d/a", "d/b")),
         ("out", lambda: os.rename("d/b", "other/b")), ("in", lambda: os.rename("other/b", "d/c")),
         ("mkdir", lambda: os.mkdir("d/sub")), ("below", lambda: create("d/sub/x")), ("list", lambda: os.listdir("d")),
         ("self", lambda: os.chmod("d", 0o700)), ("unlink", lambda: os.unlink("d/sub/x")), ("rmdir", lambda: os.rmdir("d/sub")),
         ("unlink", lambda: os.unlink("d/c"))]
for flag in (fcntl.DN_ACCESS, fcntl.DN_MODIFY, fcntl.DN_CREATE, fcntl.DN_DELETE, fcntl.DN_RENAME, fcntl.DN_ATTRIB):
    attempt(f"flag {flag}", fd, fcntl.F_NOTIFY, flag | fcntl.DN_MULTISHOT)
    for name, action in STEPS:
        step(f"{flag} {name}", action)
    attempt("end", fd, fcntl.F_NOTIFY, 0)

print("owner", fcntl.fcntl(fd, fcntl.F_GETOWN) == os.getpid())
fcntl.fcntl(fd, fcntl.F_SETSIG, RT)
attempt("once", fd, fcntl.F_NOTIFY, fcntl.DN_CREATE)
step("first", lambda: create("d/1"))
step("second", lambda: create("d/2"))
attempt("two", fd, fcntl.F_NOTIFY, fcntl.DN_CREATE)
attempt("and", fd, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)
step("both", lambda: create("d/3"))
step("both", lambda: os.unlink("d/3"))
second = os.open("d", os.O_RDONLY)
attempt("another", second, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)
step("two files", lambda: create("d/4"))
os.close(fd)
step("closed", lambda: create("d/5"))
if os.fork() == 0:
    os.close(second)
    os._exit(len(pending()))
print("child", os.wait()[1])
step("a child's close is its own", lambda: create("d/6"))
copy = os.dup(second)
os.close(second)
step("a copy remains, the request does not", lambda: create("d/7"))
with open("file", "w") as f:
    attempt("no directory", f.fileno(), fcntl.F_NOTIFY, fcntl.DN_CREATE)
attempt("closed", second, fcntl.F_NOTIFY, fcntl.DN_CREATE)
os.rename("d/7", "d/8")
print(read("/proc/sys/fs/dir-notify-enable").strip())
