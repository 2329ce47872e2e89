"""AF_NETLINK: sockets, messages, acknowledgements, dumps, groups. This host's Linux is the oracle where it can be."""
from __future__ import annotations

import pathlib
import shlex

PROLOGUE = r"""
import errno, os, socket, struct
NL = socket.AF_NETLINK

def err(f, *a):
    try:
        return f(*a)
    except OSError as e:
        return errno.errorcode[e.errno]

s = socket.socket(NL, socket.SOCK_RAW, 0)
"""
REQUESTS = r"""
s.bind((0, 0))
def req(type, flags, body, seq=7, sock=s):
    sock.send(struct.pack("<IHHII", 16 + len(body), type, flags, seq, 0) + body)
def show(data):
    while data:
        n, type, flags, seq, pid = struct.unpack_from("<IHHII", data)
        body = data[16:n]
        print(type, hex(flags), seq, pid == os.getpid(), struct.unpack_from("<i", body)[0] if type in (2, 3) else len(body) > 16, n if type in (2, 3) else "")
        if type == 2 and flags & 0x200: print(body[20:].replace(b"\0", b"."))
        data = data[n + 3 & ~3:]
ifi = struct.pack("<BxHiII", 0, 0, 1, 0, 0)
"""


def python(*parts):
    return "python3 -c " + shlex.quote("".join(parts))


def test_port_numbers_and_addresses(agree):
    """netlink(7): the kernel assigns the process ID to the first socket, and something else to others."""
    agree(python(PROLOGUE, r"""
print(s.getsockname())
s.bind((0, 0)); print(s.getsockname() == (os.getpid(), 0))
t = socket.socket(NL, socket.SOCK_DGRAM, 0)
print(err(t.bind, (os.getpid(), 0)))
t.bind((0, 0)); print(t.getsockname()[0] >= 1 << 31)
print(err(t.bind, (5, 0)))
print(err(socket.socket, NL, socket.SOCK_STREAM, 0), err(socket.socket, NL, socket.SOCK_RAW, 31), err(socket.socket, NL, socket.SOCK_RAW, 40))
"""))


def test_requests_are_answered_and_acknowledged(agree):
    """netlink(7): NLM_F_ACK, NLMSG_ERROR with the negated errno and the message that caused it."""
    agree(python(PROLOGUE, REQUESTS, r"""
req(18, 1, ifi); show(s.recv(65536))                                      # one link
req(18, 5, ifi); show(s.recv(65536)); show(s.recv(65536))                 # and an ack
req(18, 1, struct.pack("<BxHiII", 0, 0, 9999, 0, 0)); show(s.recv(65536))           # ENODEV
req(107, 1, ifi); show(s.recv(65536))
req(200, 1, ifi); show(s.recv(65536))
req(3, 5, b""); show(s.recv(65536))
"""))


def test_options_strict_checking_and_truncation(agree):
    """netlink(7), socket options: what they are, and what NETLINK_GET_STRICT_CHK and NETLINK_EXT_ACK change."""
    agree(python(PROLOGUE, REQUESTS, r"""
for opt in (1, 11, 10, 12): print(opt, err(s.setsockopt, 270, opt, 1), err(s.getsockopt, 270, opt, 4))
s.setsockopt(270, 10, 0)
print(err(s.setsockopt, 270, 99, 1), err(s.setsockopt, 270, 1, 5000))
req(18, 0x301, struct.pack("<BxHiII", 0, 0, 5, 0, 0)); show(s.recv(65536))          # strict: a filter that is not supported
req(18, 0x301, b"\0"); show(s.recv(65536))
req(22, 0x301, struct.pack("<BBBBI", 2, 1, 0, 0, 0)); show(s.recv(65536))
req(18, 1, ifi)
print(len(s.recv(10, socket.MSG_PEEK)) , s.recv(10, socket.MSG_PEEK | socket.MSG_TRUNC) == s.recv(10, socket.MSG_PEEK))
d, anc, fl, a = s.recvmsg(4); print(len(d), fl == socket.MSG_TRUNC, a)
s.setblocking(False); print(err(s.recv, 100))
print(err(s.sendto, b"x" * 20, (12345678, 0)), err(s.sendto, b"abc", (0, 0)), err(s.send, b"x" * 300000))
"""))


def test_programs_talk_to_each_other(agree):
    """netlink(7): NETLINK_USERSOCK, unicast, groups, connect(2)."""
    agree(python(PROLOGUE, r"""
u, v = (socket.socket(NL, socket.SOCK_RAW, 2) for _ in range(2))
u.bind((0, 0)); v.bind((0, 4))
u.sendto(b"hello", v.getsockname()); print(v.recvfrom(100)[0])
print(err(u.sendto, b"group", (0, 4)))
v.setblocking(False); r = err(v.recvfrom, 100); print(r[0] if isinstance(r, tuple) else r, r[1][1] if isinstance(r, tuple) else "")
u.connect((v.getsockname()[0], 0)); print(u.getpeername() == (v.getsockname()[0], 0)); u.send(b"c"); print(v.recv(9))
print(socket.if_nametoindex("lo"), ("lo" in dict((b, a) for a, b in socket.if_nameindex())), err(socket.if_indextoname, 9999))
"""))


def test_unprivileged_programs_may_look_but_not_change(run):
    """rtnetlink(7): changes need CAP_NET_ADMIN."""
    result = run("ip link show lo >/dev/null && echo looked; ip link set lo mtu 1000; ip link show lo | head -1", uid=1000, cwd="/tmp")
    assert b"looked" in result.stdout and b"mtu 65536" in result.stdout
    assert result.stderr == b"RTNETLINK answers: Operation not permitted\n"


def test_a_dump_comes_in_parts(run):
    """A dump of sixty interfaces does not fit into one message; all of them come, once, in order."""
    result = run("for i in $(seq 60); do ip link add d$i type dummy; done; ip -o link | cut -d: -f2; "
                 "ip -o link show type dummy | wc -l")
    names = result.stdout.split()
    assert names[:2] == [b"lo", b"eth0"] and names[2:-1] == [b"d%d" % i for i in range(1, 61)]
    assert names[-1] == b"60"


OVERRUN = r"""
import errno, os, socket
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
s.bind((0, 1))
os.system("for i in 1 2 3 4 5 6 7 8; do ip link set lo mtu $((9000 + i)); done")
try:
    s.recv(65536)
    print("no error")
except OSError as e:
    print(errno.errorcode[e.errno])
s.setblocking(False)
n = 0
try:
    while s.recv(65536):
        n += 1
except BlockingIOError:
    print(0 < n < 8)
os.system("ip link set lo mtu 65536")
print(len(s.recv(65536)) > 500)
print([l.split()[8] != "0" for l in open("/proc/net/netlink") if " 00000001 " in l])
"""


def test_a_reader_that_is_too_slow_learns_it(run):
    """netlink(7): ENOBUFS tells of lost messages; afterwards new ones come again."""
    assert run(python(OVERRUN)).stdout == b"ENOBUFS\nTrue\nTrue\n[True]\n"


UEVENTS = r"""
import os, socket
os.system("losetup -f > /dev/null")
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
s.bind((0, 1))
os.system("truncate -s 1M /tmp/disk; losetup /dev/loop3 /tmp/disk; ip link add dev d0 type dummy; ip link set d0 name d1; "
          "echo add > /sys/class/mem/null/uevent; ip link del d1")
s.setblocking(False)
try:
    while True:
        data, anc, flags, address = s.recvmsg(8192)
        print(address, *data.decode().split("\0"))
except BlockingIOError:
    os.system("losetup -d /dev/loop3")
"""


def test_uevents_tell_of_devices_that_come_and_go(run):
    """A032: a device added at run time appears in /sys and raises a uevent."""
    lines = [line.split() for line in run(python(UEVENTS)).stdout.decode().splitlines()]
    assert all(line[:2] == ["(0,", "1)"] for line in lines)
    events = [line[2] for line in lines]
    assert events == ["change@/devices/virtual/block/loop3", "add@/devices/virtual/net/d0",
                      "move@/devices/virtual/net/d1", "add@/devices/virtual/mem/null", "remove@/devices/virtual/net/d1"]
    assert {"ACTION=add", "SUBSYSTEM=net", "INTERFACE=d0", "IFINDEX=3"} <= set(lines[1])
    numbers = [int(word.split("=")[1]) for line in lines for word in line if word.startswith("SEQNUM=")]
    assert numbers == sorted(set(numbers)) and len(numbers) == 5


def test_udevadm_hears_of_devices(run):
    """udevadm(8) monitor --kernel"""
    text = run("udevadm monitor --kernel --property >/tmp/log & sleep 0.5; ip link add d0 type dummy; sleep 0.3; kill %1; "
               "cat /tmp/log").stdout
    assert b"] add      /devices/virtual/net/d0 (net)\nACTION=add\n" in text and b"\nINTERFACE=d0\n" in text


def test_generic_netlink_has_a_controller(run):
    """genl(8): families are found by name; the controller is one itself."""
    text = run("genl ctrl get name nlctrl; genl ctrl get name nosuch").stdout
    assert b"Name: nlctrl\n\tID: 0x10  Version: 0x2" in text and b"can doit; can dumpit" in text


# edges of ../shared/reference/edges/c-unsharenet.txt that are ours
EDGES = """
__netlink_create sk_alloc
__netlink_create sock_init_data
__netlink_kernel_create __netlink_create
__netlink_kernel_create netlink_insert
__netlink_kernel_create sock_create_lite
__nlmsg_put skb_put
dev_mc_net_init proc_create_net_data
dev_proc_net_init proc_create_net_data
netlink_insert lock_sock_nested
netlink_insert release_sock
ops_init proc_net_ns_init
proc_create_net_data proc_register
raw_notifier_call_chain rtnetlink_event
register_netdevice rtmsg_ifinfo
rtmsg_ifinfo rtmsg_ifinfo_build_skb
rtmsg_ifinfo_build_skb __alloc_skb
rtmsg_ifinfo_build_skb if_nlmsg_size
rtmsg_ifinfo_build_skb rtnl_fill_ifinfo
rtnl_fill_ifinfo __nlmsg_put
rtnl_fill_ifinfo dev_get_flags
rtnl_fill_ifinfo rtnl_fill_link_ifmap
rtnl_fill_ifinfo rtnl_fill_stats
rtnl_fill_ifinfo skb_put
rtnl_fill_link_ifmap skb_put
rtnl_fill_stats dev_get_stats
rtnl_fill_stats skb_put
rtnl_notify nlmsg_notify
"""


def test_a_new_namespace_makes_the_calls_that_linux_makes(boot, monkeypatch):
    """unshare(CLONE_NEWNET): setup_net() and the notifications of its lo."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).resolve().parents[1] / "trace")
    from call_graph import CallGraph

    kernel = boot()
    kernel.run(["/bin/cat", "/proc/net/dev"])
    with CallGraph(kernel) as graph:
        assert kernel.run(["/usr/bin/unshare", "-n", "/bin/true"]).status == 0
    kernel.run(["/bin/sleep", "0.2"])                # cleanup_net() is a worker's
    edges = [tuple(line.split()) for line in EDGES.split("\n") if line]
    assert [edge for edge in edges if edge not in graph.edges] == []
