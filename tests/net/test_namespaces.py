"""Network namespaces, and veth between them: network_namespaces(7), veth(4)."""
from __future__ import annotations


def test_a_new_namespace_has_only_lo_and_that_is_down(run):
    done = run("unshare -n ip -o link; unshare -n ping -c 1 127.0.0.1; echo $?; ip -o link | wc -l")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("1: lo: <LOOPBACK> mtu 65536 qdisc noop state DOWN")
    assert lines[1:] == ["2", "2"], lines
    assert b"Network is unreachable" in done.stderr


def test_lo_of_two_namespaces_are_two(run):
    done = run("""
    python3 - <<'X'
import ctypes, socket
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
a.bind(("127.0.0.1", 1234))
ctypes.CDLL(None).unshare(0x40000000)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
b.bind(("127.0.0.1", 1234) if False else ("0.0.0.0", 1234))
try:
    b.sendto(b"x", ("127.0.0.1", 1234))
except OSError as error:
    print(error.errno)
a.sendto(b"y", ("127.0.0.1", 1234))
print(a.recv(9))
X
    """)
    assert done.stdout == b"101\nb'y'\n", done.stderr


VETH = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
ip = lambda line: subprocess.run(["ip", *line.split()], check=True)
r, w = os.pipe()
r2, w2 = os.pipe()
child = os.fork()
if not child:
    libc.unshare(0x40000000)
    os.write(w, b"x")
    os.read(r2, 1)
    ip("link set lo up"); ip("addr add 10.9.0.2/24 dev vb"); ip("link set vb up")
    os.write(w, b"y")
    os.read(r2, 1)
    print(open("/proc/net/dev").read().count("vb:"), flush=True)
    os._exit(0)
os.read(r, 1)
ip("link add va type veth peer name vb"); ip(f"link set vb netns {child}")
ip("addr add 10.9.0.1/24 dev va"); ip("link set va up")
os.write(w2, b"x")
os.read(r, 1)
subprocess.run(["ping", "-c", "2", "-i", "0.2", "10.9.0.2"], check=True, stdout=subprocess.DEVNULL)
print(subprocess.run(["ip", "-o", "link", "show", "va"], capture_output=True, text=True).stdout.split(">")[0], flush=True)
os.write(w2, b"x")
os.wait()
import time
time.sleep(0.1)
print(subprocess.run(["ip", "-o", "link", "show", "va"], capture_output=True, text=True).stderr.strip())
"""


def test_veth_connects_two_namespaces_and_ends_with_one_of_them(boot):
    kernel = boot()
    done = kernel.run(["python3", "-c", VETH])
    assert done.status == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0].endswith("<BROADCAST,MULTICAST,UP,LOWER_UP")
    assert lines[1:] == ["1", 'Device "va" does not exist.']
    assert len(kernel.net.net_namespace_list) == 1


def test_nsenter_finds_a_namespace_again(run):
    done = run("unshare -n sleep 1 & sleep 0.1; readlink /proc/$!/ns/net; nsenter --net=/proc/$!/ns/net readlink "
               "/proc/self/ns/net; nsenter --net=/proc/$!/ns/net ip -o link | wc -l; kill $!")
    first, second, count = done.stdout.split()
    assert first == second and count == b"1"
