"""AF_UNIX and sockets in general: unix(7), socket(7), cmsg(3). This host's Linux says what is right."""
from __future__ import annotations

import os
import pathlib

import pytest

PROGRAMS = pathlib.Path(__file__).parent / "unix_programs"


@pytest.fixture
def on_both(run_c, build_c, host):
    """on_both(program) -> its output, the same here and on the host."""

    def go(program, *arguments):
        source = (PROGRAMS / f"{program}.c").read_text().replace('#include "t.h"', (PROGRAMS / "t.h").read_text())
        expected = host([str(build_c(source)), *arguments])
        result = run_c(source, *arguments, cwd="/tmp", uid=os.getuid(), gid=os.getgid())
        assert result.stdout.decode().splitlines() == expected.stdout.decode().splitlines(), result.stderr
        assert result.status == expected.status == 0
        return result.stdout.decode()

    return go


@pytest.mark.parametrize("program", ["stream", "dgram", "scm", "options", "waiting", "filter", "inet", "sigio"])
def test_programs_see_what_they_see_on_linux(on_both, program):
    """unix(7), socket(7)"""
    on_both(program)


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_are_answered_as_on_linux(on_both, seed):
    """1500 calls on ten sockets of all types, and what poll(2) says after each."""
    on_both("random", str(seed))


def test_sockets_show_in_proc(run):
    """proc(5): /proc/net/unix, /proc/PID/fd; readlink says "socket:[INO]"."""
    result = run(["/usr/bin/python3", "-c", """
import os, socket
a = socket.socket(socket.AF_UNIX); a.bind("/tmp/named"); a.listen()
b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); b.bind("\\0abs\\0tract")
c = socket.socket(socket.AF_UNIX); c.connect("/tmp/named")
ino = {os.fstat(s.fileno()).st_ino: n for n, s in zip("abc", (a, b, c))}
assert os.readlink(f"/proc/self/fd/{a.fileno()}") == f"socket:[{os.fstat(a.fileno()).st_ino}]"
for line in open("/proc/net/unix"):
    f = line.split()
    print(*(f if f[0] == "Num" else [*f[1:6], ino.get(int(f[6]), f[6]), *f[7:]]))
try:
    open(f"/proc/self/fd/{a.fileno()}")
except OSError as e:
    print(e.strerror)
print(open(f"/proc/self/fdinfo/{a.fileno()}").read().split()[:4])
"""])
    assert result.stdout.decode().splitlines() == [
        "Num RefCount Protocol Flags Type St Inode Path",
        "00000002 00000000 00010000 0001 01 a /tmp/named",
        "00000002 00000000 00000000 0002 01 b @abs@tract",
        "00000003 00000000 00000000 0001 03 c",
        "00000003 00000000 00000000 0001 02 0 /tmp/named",
        "No such device or address",
        "['pos:', '0', 'flags:', '02000002']",
    ], result.stderr


@pytest.mark.parametrize("directory", ["/tmp", "/root", "/var/tmp", "/dev/shm"])
def test_a_name_may_be_a_file_of_any_file_system(run, directory):
    """unix(7): tmpfs, ext4, an overlay."""
    result = run(f"""
mkdir /tmp/up /tmp/work /tmp/low; mount -t overlay o -olowerdir=/tmp/low,upperdir=/tmp/up,workdir=/tmp/work /var/tmp
python3 -c "
import os, socket
a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a.bind('{directory}/s')
b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); b.sendto(b'there', '{directory}/s')
os.rename('{directory}/s', '{directory}/moved'); b.sendto(b'moved', '{directory}/moved')
os.link('{directory}/moved', '{directory}/link'); b.sendto(b'linked', '{directory}/link')
print(a.recv(10), a.recv(10), a.recv(10), a.getsockname() == '{directory}/s', oct(os.stat('{directory}/link').st_mode))
a.close()
try:
    b.sendto(b'x', '{directory}/link')
except OSError as e:
    print(e.strerror)
"; umount /var/tmp""", home=True)
    assert result.stdout.decode().splitlines() == [
        "b'there' b'moved' b'linked' True 0o140755", "Connection refused"], result.stderr


def test_the_length_of_queues_is_a_sysctl(run):
    """unix(7): /proc/sys/net/unix/max_dgram_qlen"""
    result = run("""cat /proc/sys/net/unix/max_dgram_qlen; echo 3 > /proc/sys/net/unix/max_dgram_qlen; python3 -c "
import socket
a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a.bind('/tmp/s')
b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); b.setblocking(False); n = 0
try:
    while b.sendto(b'x', '/tmp/s'):
        n += 1
except BlockingIOError:
    print(n)
" """)
    assert result.stdout == b"10\n4\n", result.stderr


def test_a_reader_in_poll_is_woken_through_the_socket(boot, build_c):
    """The chain of the kernel's own words: sock_def_readable > __wake_up_sync_key > ... > pollwake."""
    from glasskernel import Share

    binary = build_c("""
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) { int s[2]; char c; socketpair(1, 1, 0, s); struct pollfd p = {s[0], POLLIN, 0};
  if (!fork()) { usleep(1000); write(s[1], "x", 1); _exit(0); } return poll(&p, 1, 100) != 1 || read(s[0], &c, 1) != 1; }""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    script = f"""cd /sys/kernel/tracing; echo pollwake > set_ftrace_filter; echo function > current_tracer
echo 1 > options/func_stack_trace; /programs/{binary.name} || echo bad; echo 0 > tracing_on; cat trace"""
    result = kernel.run(["/bin/sh", "-c", f"mount -t tracefs t /sys/kernel/tracing 2>/dev/null; {script}"])
    words = [line.split()[-1] for line in result.stdout.decode().splitlines() if line.startswith(" => ")]
    chain = ["pollwake", "__wake_up_common", "__wake_up_common_lock", "__wake_up_sync_key", "sock_def_readable",
             "unix_stream_sendmsg", "sock_sendmsg", "sock_write_iter", "new_sync_write", "__vfs_write", "vfs_write"]
    assert any(words[at : at + len(chain)] == chain for at in range(len(words))), result.stdout.decode()


def test_nothing_of_the_network_is_imported_before_the_first_socket(boot):
    import subprocess
    import sys

    program = ("import sys; from glasskernel import Kernel; Kernel(home=False).run(['/bin/true']);"
               "print([m for m in sys.modules if m.startswith('glasskernel.net')])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


# ---- real programs ------------------------------------------------------------------------------------------
def test_asyncio_multiprocessing_and_socketserver(agree):
    """Python's own users of AF_UNIX."""
    agree((PROGRAMS / "servers.py").read_text(), shell="/usr/bin/python3")


def test_unix_half_of_cpythons_own_tests(run):
    """test.test_socket: 92 tests of addresses, descriptors in messages, SCM_RIGHTS, abstract names."""
    classes = ["TestUnixDomain", "BasicSocketPairTest", "TestLinuxAbstractNamespace", "SendRecvFdsTests",
               "SendmsgUnixStreamTest", "RecvmsgUnixStreamTest", "RecvmsgIntoUnixStreamTest",
               "RecvmsgSCMRightsStreamTest", "RecvmsgIntoSCMRightsStreamTest"]
    result = run(["/usr/bin/python3.11", "-m", "unittest", *(f"test.test_socket.{name}" for name in classes)],
                 cwd="/tmp")
    assert result.status == 0, result.stderr.decode()


def test_dbus_ssh_agent_logger_socat_and_netcat(agree):
    """Programs that have always used AF_UNIX."""
    agree("""
eval $(ssh-agent -a $PWD/agent) >/dev/null; ssh-add -l; ssh-agent -k >/dev/null
dbus-daemon --session --fork --print-pid=1 --address=unix:path=$PWD/bus > pid
export DBUS_SESSION_BUS_ADDRESS=unix:path=$PWD/bus
dbus-send --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames | tail -n +2
dbus-monitor interface=org.example > heard & sleep 0.5; dbus-send --type=signal / org.example.Hello string:there
sleep 0.5; kill $!; grep there heard; kill $(cat pid)
socat -u UNIX-RECV:devlog STDOUT > logged & sleep 0.5
logger -u $PWD/devlog -t me "a line for the log"; sleep 0.3; kill $!; grep -o "me: .*" logged
socat -u UNIX-LISTEN:l.sock,fork OPEN:out,creat,append & sleep 0.3
echo "through socat" | socat - UNIX-CONNECT:l.sock; sleep 0.2; kill $!; cat out
nc -lU n.sock > nout & sleep 0.3; echo "through netcat" | nc -NU n.sock; wait $!; cat nout
getent passwd root""", stderr=False)


def test_sockstat_and_protocols_count(run):
    """proc(5): /proc/net/sockstat, /proc/net/protocols"""
    result = run(["/usr/bin/python3", "-c", """
import socket
before = open("/proc/net/sockstat").readline().split()
a, b = socket.socketpair(); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0))
t = socket.create_server(("127.0.0.1", 0)); raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
stat = dict(line.split(":") for line in open("/proc/net/sockstat"))
print(int(stat["sockets"].split()[1]) - int(before[2]), stat["TCP"].split()[:2], stat["UDP"].split()[:2], stat["RAW"].split())
for line in open("/proc/net/protocols"):
    if line.split()[0] in ("protocol", "UNIX"):
        print(line, end="")
"""])
    assert result.stdout.decode().splitlines() == [
        "5 ['inuse', '1'] ['inuse', '1'] ['inuse', '1']",
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em",
        "UNIX      1088      2      -1   NI       0   yes  kernel      n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n",
    ], result.stderr


def test_full_receive_queues_are_told_to_tracers(boot):
    """The tracepoint sock:sock_rcvqueue_full."""
    kernel = boot()
    result = kernel.run(["/bin/sh", "-c", """mount -t tracefs t /sys/kernel/tracing 2>/dev/null; cd /sys/kernel/tracing
echo 1 > events/sock/sock_rcvqueue_full/enable; python3 -c "
import socket
r = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); r.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 3000)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
for _ in range(20):
    s.sendto(bytes(500), ('127.0.0.1', 0))
"; grep -c sock_rcvqueue_full: trace; grep -m1 -o 'sock_rcvqueue_full: rmem_alloc=.*' trace"""])
    count, line = result.stdout.decode().splitlines()
    assert 0 < int(count) < 20 and line.endswith("sk_rcvbuf=6000"), (result.stdout, result.stderr)


def test_abstract_names_belong_to_a_network_namespace_and_files_to_nobody(run):
    """unix(7), network_namespaces(7)"""
    result = run(["/usr/bin/python3", "-c", """
import socket, subprocess, sys
a = socket.socket(socket.AF_UNIX); a.bind("\\0name"); a.listen()
f = socket.socket(socket.AF_UNIX); f.bind("/tmp/f"); f.listen()
subprocess.run(["unshare", "-n", sys.executable, "-c", '''
import socket
for name in (b"\\\\0name", "/tmp/f"):
    try:
        s = socket.socket(socket.AF_UNIX); s.connect(name); print("connected")
    except OSError as e:
        print(e.strerror)
socket.socket(socket.AF_UNIX).bind(b"\\\\0name")
'''], check=True)
"""])
    assert result.stdout.decode().splitlines() == ["Connection refused", "connected"], result.stderr
