"""What tools see of the network: iproute2, net-tools, ss, ethtool, /sys/class/net, /proc/net, /proc/sys/net."""
from __future__ import annotations

import shlex

LINK = "ip link >/dev/null; sleep 1; "            # the network starts when somebody looks; then the carrier comes


def python(script):
    return "python3 -c " + shlex.quote(script)


# ---- iproute2 --------------------------------------------------------------------------------------
def test_ip_shows_addresses_and_routes(run):
    """A279: ip a, ip r as on the reference machine (../shared/reference/outputs/ip-a.txt), without IPv6."""
    assert run(LINK + "ip a").stdout == b"""\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc pfifo_fast state UP group default qlen 1000
    link/ether 52:54:00:12:34:56 brd ff:ff:ff:ff:ff:ff
    inet 10.0.2.15/24 scope global eth0
       valid_lft forever preferred_lft forever
"""
    assert run(LINK + "ip r | sed 's/ *$//'").stdout == (
        b"default via 10.0.2.2 dev eth0\n10.0.2.0/24 dev eth0 proto kernel scope link src 10.0.2.15\n")


def test_addresses_come_and_go(run):
    """ip-address(8), and the routes that belong to an address."""
    result = run("ip addr add 10.9.0.1/24 dev eth0 label eth0:1; ip -o -4 addr show dev eth0 | tail -1; ip r get 10.9.0.7; "
                 "ip addr add 10.9.0.1/24 dev eth0; ip addr add 10.9.1.1/24 dev eth0 valid_lft 100 preferred_lft 50; "
                 "ip addr show to 10.9.1.1; ip addr del 10.9.0.1/24 dev eth0; ip addr del 10.9.0.1/24 dev eth0; "
                 "ip r show table local to 10.9.0.1; hostname -I")
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "2: eth0    inet 10.9.0.1/24 scope global eth0:1\\       valid_lft forever preferred_lft forever"
    assert lines[1].startswith("10.9.0.7 dev eth0 src 10.9.0.1 uid 0")
    assert "       valid_lft 100sec preferred_lft 50sec" in lines
    assert lines[-1].split() == ["10.0.2.15", "10.9.1.1"]
    assert result.stderr == b"RTNETLINK answers: File exists\nRTNETLINK answers: Cannot assign requested address\n"


def test_routes_come_and_go(run):
    """ip-route(8)"""
    result = run(LINK + "ip route add 10.77.0.0/16 via 10.0.2.2 metric 5 mtu 1400; ip route show 10.77/16; "
                 "ip route add 10.77.0.0/16 via 10.0.2.2 metric 5; ip route replace 10.77.0.0/16 dev eth0 metric 5; "
                 "ip route show 10.77/16; ip route add 10.78.0.0/16 via 192.168.77.1; ip route del 10.77.0.0/16; "
                 "ip route del 10.77.0.0/16; ip route add blackhole 10.99.0.0/16; ip route get 10.99.1.1; "
                 "ip route get 127.0.0.1; ip route get 8.8.8.8")
    lines = [line.strip() for line in result.stdout.decode().splitlines()]
    assert lines == ["10.77.0.0/16 via 10.0.2.2 dev eth0 metric 5 mtu 1400", "10.77.0.0/16 dev eth0 scope link metric 5",
                     "local 127.0.0.1 dev lo src 127.0.0.1 uid 0", "cache <local>",
                     "8.8.8.8 via 10.0.2.2 dev eth0 src 10.0.2.15 uid 0", "cache"]
    assert result.stderr == (b"RTNETLINK answers: File exists\nError: Nexthop has invalid gateway.\n"
                             b"RTNETLINK answers: No such process\nRTNETLINK answers: Invalid argument\n")


def test_neighbours_come_and_go(run):
    """ip-neighbour(8)"""
    result = run("ip neigh add 10.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent; ip neigh show 10.0.2.77; "
                 "ip neigh add 10.0.2.77 lladdr 02:00:00:00:00:78 dev eth0; "
                 "ip neigh replace 10.0.2.77 lladdr 02:00:00:00:00:79 dev eth0 nud stale; arp -n | grep 10.0.2.77; "
                 "ip neigh del 10.0.2.77 dev eth0; ip neigh show 10.0.2.77; ip ntable show dev eth0 | grep -c arp_cache")
    assert [b" ".join(line.split()) for line in result.stdout.splitlines()] == [
        b"10.0.2.77 dev eth0 lladdr 02:00:00:00:00:77 PERMANENT", b"10.0.2.77 ether 02:00:00:00:00:79 C eth0", b"1"]
    assert result.stderr == b"RTNETLINK answers: File exists\n"


def test_monitor_tells_what_happens(run):
    """ip-monitor(8): links, addresses and routes, as they change."""
    text = run("ip monitor link address route >/tmp/log & sleep 0.2; ip link set eth0 mtu 1400; "
               "ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 down; sleep 0.2; kill %1; cat /tmp/log").stdout
    assert b"mtu 1400" in text and b"inet 10.9.0.1/24 scope global eth0" in text
    assert b"local 10.9.0.1 dev eth0 table local proto kernel scope host src 10.9.0.1" in text
    assert b"10.9.0.0/24 dev eth0 proto kernel scope link src 10.9.0.1" in text
    assert b"state DOWN" in text


def test_ip_knows_the_limits(run):
    """Errors have the texts of Linux 5.3."""
    result = run("ip link add x type nosuch; ip link del lo; ip link set eth0 mtu 99999; ip link set nosuch up; ip rule; "
                 "ip -6 addr; ip link set lo name eth0")
    assert result.stdout == b"0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"
    assert result.stderr == (b"Error: Unknown device type.\nRTNETLINK answers: Operation not supported\n"
                             b"Error: mtu greater than device maximum.\nCannot find device \"nosuch\"\n"
                             b"RTNETLINK answers: Device or resource busy\n")


def test_a_namespace_has_its_own_network(run):
    """ip-link(8) netns: /proc/net, /proc/sys/net and netlink show that of the caller."""
    result = run("unshare -n sh -c 'ip -o link | cut -d: -f2; cat /proc/net/dev | wc -l; ls /proc/sys/net/core; "
                 "ip link set lo up; ip -4 -o a | wc -l'; ip -o link | cut -d: -f2; ls /proc/sys/net/core/rmem_max; "
                 "ip link add v0 type veth peer name v1; unshare -n sleep 9 & sleep 0.1; ip link set v1 netns $!; "
                 "nsenter -n -t $! ip -o link | cut -d: -f2; kill $!; wait; sleep 0.2")
    assert result.stdout.split() == [b"lo", b"3", b"somaxconn", b"1", b"lo", b"eth0", b"/proc/sys/net/core/rmem_max",
                                     b"lo", b"v1@if4"]


# ---- net-tools -------------------------------------------------------------------------------------
def test_ifconfig_and_route(run):
    """ioctl(2) on interfaces: ifconfig(8), route(8), arp(8)."""
    result = run("ifconfig lo; ifconfig eth0:5 10.5.0.1 netmask 255.255.0.0; ifconfig eth0:5; ifconfig eth0 mtu 1400; "
                 "route add -net 10.6.0.0/16 gw 10.0.2.2; route -n; route del -net 10.6.0.0/16; netstat -rn | wc -l")
    text = result.stdout.decode()
    assert "lo: flags=73<UP,LOOPBACK,RUNNING>  mtu 65536\n        inet 127.0.0.1  netmask 255.0.0.0\n" in text
    assert "eth0:5: flags=4163<UP,BROADCAST,RUNNING,MULTICAST>  mtu 1500\n" in text
    assert "inet 10.5.0.1  netmask 255.255.0.0  broadcast 10.5.255.255" in text
    assert "10.6.0.0        10.0.2.2        255.255.0.0     UG    0      0        0 eth0" in text
    assert "0.0.0.0         10.0.2.2        0.0.0.0         UG    0      0        0 eth0" in text
    assert text.endswith("\n5\n")


# ---- sockets ---------------------------------------------------------------------------------------
SOCKETS = r"""
import os, socket
l = socket.socket(); l.bind(("127.0.0.1", 8080)); l.listen(7)
c = socket.create_connection(("127.0.0.1", 8080)); a, _ = l.accept()
c.sendall(b"x" * 100)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 5353))
x, y = socket.socketpair(); y.send(b"abc")
os.system("ss -tanp; echo; ss -uan; echo; ss -tlni 'sport = :8080'; echo; ss -tn 'dport = :8080'; echo; ss -xp | tail -n +2")
os.system("ss -tnie state established 'sport = :8080'; netstat -tan | tail -n +3; ss -s | head -2")
a.recv(100); c.close(); a.close(); l.close()
os.system("ss -tan | tail -n +2; ss -tan state time-wait | wc -l")
"""


def test_ss_shows_sockets(run):
    """ss(8): TCP with processes, queues, filters by port and state, UDP, UNIX; A276: TIME-WAIT of who closed first."""
    tcp, udp, listening, outgoing, rest = run(python(SOCKETS)).stdout.decode().split("\n\n")
    rows = [line.split() for line in tcp.splitlines()[1:]]
    port = rows[1][4 if rows[1][4] != "127.0.0.1:8080" else 3].rsplit(":")[-1]
    assert rows[0][:5] == ["LISTEN", "0", "7", "127.0.0.1:8080", "0.0.0.0:*"] and 'users:(("python3",pid=' in rows[0][5]
    assert sorted((row[1], row[3], row[4]) for row in rows[1:]) == [
        ("0", f"127.0.0.1:{port}", "127.0.0.1:8080"), ("100", "127.0.0.1:8080", f"127.0.0.1:{port}")]
    assert udp.splitlines()[1].split() == ["UNCONN", "0", "0", "0.0.0.0:5353", "0.0.0.0:*"]
    assert listening.splitlines()[2].split() == ["cubic", "cwnd:10"] and len(outgoing.splitlines()) == 2
    assert "u_str ESTAB 3      0" in rest and "cubic wscale:" in rest and "TIME-WAIT" in rest
    assert rest.count("ESTABLISHED") == 2 and rest.endswith("\n2\n")


# ---- other readers ---------------------------------------------------------------------------------
def test_ethtool(run):
    """ethtool(8): driver, link, statistics, features."""
    text = run(LINK + "ethtool -i eth0; ethtool eth0; ethtool -S eth0; ethtool -k lo; ethtool -P eth0; ethtool -g eth0; "
               "ethtool -K eth0 gro off; ethtool -k eth0 | grep ^generic-receive").stdout.decode()
    assert "Supported link modes:" in text and text.count("1000baseT/Full") == 2
    assert "driver: e1000\n" in text and "Speed: 1000Mb/s\n\tDuplex: Full\n" in text and "Link detected: yes" in text
    assert "     rx_packets: 0\n" in text and "tcp-segmentation-offload: on\n" in text
    assert "Permanent address: 52:54:00:12:34:56\n" in text and text.endswith("generic-receive-offload: off\n")


def test_sysfs_shows_interfaces(run):
    """sysfs-class-net: attributes read and write; a renamed interface moves."""
    result = run(LINK + "cd /sys/class/net/eth0; cat address operstate carrier mtu flags type speed duplex statistics/rx_errors "
                 "tx_queue_len uevent; echo 1400 > mtu; cat mtu; echo 9 > /sys/class/net/lo/speed; cd /; "
                 "ip link set eth0 down; ip link set eth0 name lan0; ls /sys/class/net; readlink -f /sys/class/net/lo; "
                 "cat /sys/class/net/lan0/carrier; ip link add d0 type dummy; ls /sys/devices/virtual/net")
    assert result.stdout.split() == [
        b"52:54:00:12:34:56", b"up", b"1", b"1500", b"0x1003", b"1", b"1000", b"full", b"0", b"1000", b"INTERFACE=eth0",
        b"IFINDEX=2", b"1400", b"lan0", b"lo", b"/sys/devices/virtual/net/lo", b"d0", b"lo"]
    assert b"carrier: Invalid argument" in result.stderr


def test_proc_net(run):
    """proc(5), /proc/net: the files of the reference machine that need neither IPv6 nor netfilter, in its formats."""
    text = run("ls /proc/net /proc/net/stat; readlink /proc/net; cat /proc/net/dev /proc/net/netlink /proc/net/ptype "
               "/proc/net/softnet_stat /proc/net/dev_mcast /proc/net/psched; ls /proc/1/net/dev").stdout.decode()
    for name in ("arp", "dev", "dev_mcast", "fib_trie", "fib_triestat", "icmp", "igmp", "netlink", "netstat", "protocols",
                  "psched", "ptype", "raw", "route", "rt_cache", "snmp", "sockstat", "softnet_stat", "tcp",
                 "udp", "unix"):
        assert f"\n{name}\n" in "\n" + text, name
    assert " face |bytes    packets errs drop fifo frame compressed multicast|bytes " in text
    assert "0800          ip_rcv\n0806          arp_rcv\n" in text and "2    eth0            1     0     01005e000001\n" in text
    assert "\nself/net\n" in text and "000003e8 00000040 000f4240 3b9aca00\n/proc/1/net/dev\n" in text


def test_sysctls(run):
    """sysctl(8): net.core.*, net.ipv4.*; limits are checked."""
    result = run("sysctl -w net.core.rmem_max=400000; sysctl net.core.rmem_max net.core.somaxconn net.ipv4.ip_forward; "
                 "sysctl -w net.core.rmem_max=1; sysctl -a 2>/dev/null | grep -c '^net\\.ipv4\\.'")
    lines = result.stdout.split(b"\n")
    assert lines[:4] == [b"net.core.rmem_max = 400000", b"net.core.rmem_max = 400000", b"net.core.somaxconn = 128",
                         b"net.ipv4.ip_forward = 0"]
    assert b"Invalid argument" in result.stderr and int(lines[-2]) > 40


GETIFADDRS = r"""
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    struct ifaddrs *all, *i;
    if (getifaddrs(&all))
        return 1;
    for (i = all; i; i = i->ifa_next) {
        if (i->ifa_addr->sa_family == AF_PACKET)
            printf("%s %x link\n", i->ifa_name, i->ifa_flags);
        else if (i->ifa_addr->sa_family == AF_INET) {
            printf("%s %s ", i->ifa_name, inet_ntoa(((struct sockaddr_in *)i->ifa_addr)->sin_addr));
            printf("%s\n", inet_ntoa(((struct sockaddr_in *)i->ifa_netmask)->sin_addr));
        }
    }
    struct addrinfo hints = { .ai_flags = AI_ADDRCONFIG | AI_NUMERICHOST, .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo("127.0.0.1", "80", &hints, &found);
    printf("%d %d\n", error, error || found->ai_family == AF_INET);
    char name[IF_NAMESIZE];
    printf("%u %s\n", if_nametoindex("eth0"), if_indextoname(1, name));
    return 0;
}
"""


def test_getifaddrs_and_getaddrinfo(run_c):
    """getifaddrs(3), getaddrinfo(3) with AI_ADDRCONFIG: glibc asks by netlink."""
    assert run_c(GETIFADDRS).stdout == (
        b"lo 10049 link\neth0 11043 link\nlo 127.0.0.1 255.0.0.0\neth0 10.0.2.15 255.255.255.0\n0 1\n2 lo\n")


def test_a_plain_boot_imports_no_network(boot):
    """The budget of a program that needs no network: not one module of it."""
    import subprocess
    import sys

    script = ("import sys; from glasskernel import Kernel; k = Kernel(); k.run(['/bin/ls', '/sys/class', '/proc', "
              "'/proc/sys']); print([m for m in sys.modules if m.startswith('glasskernel.net')])")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"[]\n"


IOCTLS = r"""
import errno, fcntl, socket, struct
s = socket.socket(socket.AF_UNIX)
i = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def ask(cmd, name=b"lo", data=b"", sock=s):
    try:
        return fcntl.ioctl(sock, cmd, name.ljust(16, b"\0") + data.ljust(24, b"\0"))[16:36]
    except OSError as e:
        return errno.errorcode[e.errno]


for cmd in (0x8913, 0x891D, 0x8921, 0x8927, 0x8929, 0x8933, 0x8942, 0x8970):
    print(hex(cmd), ask(cmd), ask(cmd, b"nosuch"), ask(cmd, b"lo:1") == ask(cmd))
print(ask(0x8910, data=struct.pack("<i", 1)), ask(0x8910, data=struct.pack("<i", 9999)))
print(ask(0x8914, b"nosuch"), ask(0x8922, b"nosuch"), ask(0x8922, data=struct.pack("<i", -1)), ask(0x89FF), ask(0x899F))
for cmd in (0x8915, 0x8917, 0x8919, 0x891B):
    print(hex(cmd), ask(cmd, sock=i), ask(cmd), ask(cmd, b"nosuch", sock=i))
buffer = bytearray(400)
import ctypes
at = ctypes.addressof((ctypes.c_char * 400).from_buffer(buffer))
n, _ = struct.unpack("<iQ", fcntl.ioctl(s, 0x8912, struct.pack("<i4xQ", 0, 0))[:4] + bytes(8))
print(n % 40, n > 0)
fcntl.ioctl(s, 0x8912, struct.pack("<i4xQ", 40, at))
print(bytes(buffer[:24]), buffer[40:80] == bytes(40))
"""


def test_ioctls_on_lo_are_those_of_linux(agree):
    """netdevice(7): SIOCGIF* and their errors, by any socket."""
    agree(python(IOCTLS))


def test_other_rooms_of_rtnetlink(run):
    """tc(8), bridge(8), ip-netconf(8), nstat(8), netstat(8) -i and -s."""
    result = run(LINK + "tc qdisc; bridge link; bridge fdb; ip netconf show dev eth0; ip maddr show dev eth0; netstat -i; "
                 "netstat -s | head -3; nstat -az TcpActiveOpens | tail -1")
    lines = [" ".join(line.split()) for line in result.stdout.decode().splitlines()]
    assert lines[:4] == ["qdisc noqueue 0: dev lo root refcnt 2",
                         "qdisc pfifo_fast 0: dev eth0 root refcnt 2 bands 3 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1",
                         "01:00:5e:00:00:01 dev eth0 self permanent",
                         "inet eth0 forwarding off rp_filter off mc_forwarding off proxy_neigh off "
                         "ignore_routes_with_linkdown off"]
    assert "link 01:00:5e:00:00:01" in lines and "inet 224.0.0.1" in lines and "Ip:" in lines
    assert lines[-1] == "TcpActiveOpens 0 0.0"
