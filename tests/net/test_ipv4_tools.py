"""IPv4's tables as tools see and change them: ifconfig, route, arp, ip, socat, nc; namespaces; sysctls; ip=."""
from __future__ import annotations

import pytest

from tests.conftest import need


@pytest.fixture
def shell(boot):
    """shell(script, ...) -> stdout of each on one kernel. Machine options by name."""
    def go(*scripts, **machine):
        kernel = boot(**machine)
        out = []
        for script in scripts:
            result = kernel.run(["/bin/sh", "-c", script], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            out.append((result.stdout + result.stderr).decode())
        return out
    return go


def test_ifconfig_and_route_change_addresses_and_routes(shell):
    need("ifconfig", "net-tools")
    before, _, addresses, routes, after = shell(
        "ifconfig eth0; route -n",
        "ifconfig eth0 10.0.2.20 netmask 255.255.255.0 && ifconfig eth0:1 10.0.2.21 netmask 255.255.255.0",
        "ip -4 -o addr show eth0", "route add -net 192.168.5.0/24 gw 10.0.2.2 && route add -host 7.7.7.7 reject; route -n",
        "route del -net 192.168.5.0/24; ifconfig eth0:1 down; ip -4 -o addr show eth0; route -n; ping -c1 7.7.7.7")
    assert "inet 10.0.2.15  netmask 255.255.255.0  broadcast 0.0.0.0" in before
    assert "0.0.0.0         10.0.2.2        0.0.0.0         UG    0      0        0 eth0" in before
    assert "10.0.2.20/24 brd 10.0.2.255 scope global eth0" in addresses
    assert "10.0.2.21/24 brd 10.0.2.255 scope global secondary eth0:1" in addresses
    assert "192.168.5.0     10.0.2.2        255.255.255.0   UG    0      0        0 eth0" in routes
    assert "7.7.7.7         -               255.255.255.255 !H    0      -        0 -" in routes
    assert "eth0:1" not in after and "192.168" not in after and "No route to host" in after


def test_arp_entries_can_be_set_and_deleted(shell):
    need("arp", "net-tools")
    one, two, three = shell("arp -s 10.0.2.77 02:00:00:00:00:01 && arp -n", "arp -d 10.0.2.77 && arp -n",
                            "arp -d 10.0.2.78; ip neigh add 10.0.2.79 lladdr 2:0:0:0:0:2 dev eth0; arp -n 10.0.2.79")
    assert "10.0.2.77                ether   02:00:00:00:00:01   CM                    eth0" in one
    assert "10.0.2.77" not in two
    assert "No ARP entry for 10.0.2.78" in three and "02:00:00:00:00:02   CM" in three


def test_a_device_that_goes_down_takes_its_routes_along(shell):
    down, up = shell("ip link set eth0 down; ip route; ip -4 -o addr show eth0; ping -c1 10.0.2.2",
                     "ip link set eth0 up; sleep 1; ip route; ping -c1 10.0.2.2 >/dev/null && echo pong")
    assert "via" not in down and "10.0.2.15/24" in down and "Network is unreachable" in down
    assert up == "10.0.2.0/24 dev eth0 proto kernel scope link src 10.0.2.15 \npong\n"


def test_a_namespace_has_an_ipv4_of_its_own(shell):
    inside, outside = shell(
        "unshare -n sh -c 'ping -c1 127.0.0.1; ip link set lo up; ping -c1 127.0.0.1; ping -c1 10.0.2.2; cat /proc/net/route;"
        " sysctl -w net.ipv4.ip_default_ttl=99 net.ipv4.ip_forward=1; ls /proc/sys/net/ipv4/conf; ip route show table local'",
        "sysctl net.ipv4.ip_default_ttl net.ipv4.ip_forward; grep -c . /proc/net/route")
    assert inside.count("Network is unreachable") == 2 and "1 received" in inside
    assert "all\ndefault\nlo\nbroadcast 127.0.0.0 dev lo proto kernel scope link src 127.0.0.1" in inside
    assert outside == "net.ipv4.ip_default_ttl = 64\nnet.ipv4.ip_forward = 0\n3\n"


def test_sysctls_act(shell):
    """ip_local_port_range, ip_local_reserved_ports, ip_unprivileged_port_start, ip_nonlocal_bind, ping_group_range."""
    python = "python3 -c 'import socket,os,sys\ns=socket.socket(2,2)\n%s'"
    out = shell(
        "sysctl -w net.ipv4.ip_local_port_range='40000 40003' net.ipv4.ip_local_reserved_ports=40001-40002; "
        + python % "s.bind((\"\",0)); t=socket.socket(2,2); t.bind((\"\",0)); print(sorted(x.getsockname()[1] for x in (s,t)))"
        '\ntry: socket.socket(2,2).bind((\"\",0))\nexcept OSError as e: print(e.errno)',
        "sysctl -w net.ipv4.ip_unprivileged_port_start=80; setpriv --reuid 1000 --clear-groups "
        + python % "s.bind((\"\",80)); print(1)\ntry: socket.socket(2,2).bind((\"\",79))\nexcept OSError as e: print(e.errno)",
        "sysctl -w net.ipv4.ip_nonlocal_bind=1; " + python % "s.bind((\"9.9.9.9\",99)); print(s.getsockname()[0])",
        "echo 5 4 3 > /proc/sys/net/ipv4/ip_local_port_range; echo 9-x > /proc/sys/net/ipv4/ip_local_reserved_ports",
        "setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all ping -c1 127.0.0.1; "
        "sysctl -w net.ipv4.ping_group_range='0 2000'; "
        "setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all ping -c1 127.0.0.1")
    assert out[0].endswith("[40000, 40003]\n98\n")
    assert out[1].endswith("1\n13\n")
    assert out[2].endswith("9.9.9.9\n")
    assert out[3].count("I/O error") == 2                                 # what dash says about EINVAL
    assert out[4].count("1 received") == 1


def test_the_parameter_ip_configures_the_first_device(shell):
    (text,) = shell("ip -4 -o addr show; ip route", cmdline="oops=panic ip=10.0.2.40::10.0.2.2:255.255.255.128::eth0:none")
    assert "eth0    inet 10.0.2.40/25" in text and "default via 10.0.2.2 dev eth0" in text
    (text,) = shell("ip -4 -o addr show; ip route", cmdline="oops=panic ip=off")
    assert "127.0.0.1/8" in text and "eth0" not in text


def test_socat_and_netcat_talk_udp(shell):
    need("socat", "socat")
    need("nc", "netcat-openbsd")
    echo, nc = shell(
        "socat UDP4-RECVFROM:7007,fork EXEC:cat & sleep 0.2; echo hello | socat -t 1 - UDP4:127.0.0.1:7007; kill %1 2>/dev/null",
        "nc -u -l 127.0.0.1 7008 > /tmp/got & sleep 0.2; echo over nc | nc -u -w1 127.0.0.1 7008; sleep 0.2; kill %1 2>/dev/null; cat /tmp/got")
    assert (echo, nc) == ("hello\n", "over nc\n")


def test_a_ping_in_pieces_is_answered_in_pieces(shell):
    data, small, lost = shell("ping -c2 -i0.2 -s 40000 10.0.2.2", "ping -c1 -s 1472 -M do 10.0.2.2",
                              "ping -c1 -W1 -s 1473 -M do 10.0.2.2")
    assert "2 received, 0% packet loss" in data and "40008 bytes from 10.0.2.2" in data
    assert "1 received" in small and "message too long" in lost


def test_traceroute_finds_the_gateway(shell):
    need("traceroute", "traceroute")
    (text,) = shell("traceroute -n -q1 -m3 10.0.2.2; traceroute -I -n -q1 -m3 10.0.2.2")
    assert text.count(" 1  10.0.2.2  ") == 2
