"""XDP: programs that see packets before the network does (labs B60 and B61)."""
from __future__ import annotations

import pytest

PING = "ping -c1 -W1 127.0.0.1 | grep -o '[0-9]*% packet loss'\n"
VETH = """
ip netns add far
ip link add near type veth peer name there
ip link set there netns far
ip addr add 10.9.0.1/24 dev near; ip link set near up
ip -n far addr add 10.9.0.2/24 dev there; ip -n far link set there up
"""


@pytest.fixture
def lines(bpf_shell):
    def go(script, **options):
        result = bpf_shell(script, **options)
        return result.stdout.decode().splitlines() + result.stderr.decode().splitlines()

    return go


def test_ping_is_lost_while_xdp_drop_is_attached_to_lo(lines):
    """`ip link set dev lo xdp obj xdp-drop.o`, then `xdp off`"""
    seen = lines(
        f"{PING} ip link set dev lo xdp obj /bpf/xdp_drop.o; ip link show lo | grep -o xdpgeneric\n"
        f"ip link show lo | grep -o 'prog/xdp id [0-9]*'\n"
        f"{PING} ip link set dev lo xdp off; ip link show lo | grep -c xdp\n {PING}")
    assert seen[0] == "0% packet loss"
    assert seen[1] == "xdpgeneric"
    assert seen[2].startswith("prog/xdp id ")
    assert seen[3:] == ["100% packet loss", "0", "0% packet loss"]


def test_a_program_looks_into_packets_and_counts_in_a_map(lines):
    """icmp is dropped, udp is not"""
    seen = lines(
        "ip link set dev lo xdpgeneric obj /bpf/xdp_many.o program xdp_no_icmp\n" + PING
        + "python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"127.0.0.1\", 9))\n"
        "s.sendto(b\"x\", (\"127.0.0.1\", 9)); print(s.recv(9))'\n"
        "bpftool map dump name packets | grep -v 'value: 0$' | grep key\n")
    assert seen[:2] == ["100% packet loss", "b'x'"]
    assert any('"key": 1' in line or "key: 01 00 00 00" in line for line in seen[2:]), seen


def test_xdp_tx_answers_without_the_network(lines):
    """an echo request that comes back as its reply: nobody behind the device is asked"""
    seen = lines(
        VETH + "ip -n far link set dev there xdpgeneric obj /bpf/xdp_many.o program xdp_echo\n"
        "ip netns exec far sysctl -qw net.ipv4.icmp_echo_ignore_all=1\n"
        "ping -c1 -W1 10.9.0.2 | grep -o '[0-9]*% packet loss'\n")
    assert seen == ["0% packet loss"]


def test_veth_runs_programs_itself(lines):
    """native XDP: `xdp` in ip link, not `xdpgeneric`; the other kind is refused meanwhile"""
    seen = lines(
        VETH + "ip link set dev near xdpdrv obj /bpf/xdp_drop.o; ip link show near | grep -o ' xdp '\n"
        "ping -c1 -W1 10.9.0.2 | grep -o '[0-9]*% packet loss'\n"
        "ip link set dev near xdpgeneric obj /bpf/xdp_drop.o 2>&1 | grep -o 'native and generic.*'\n"
        "ip link set dev near xdpdrv off; ping -c1 -W1 10.9.0.2 | grep -o '[0-9]*% packet loss'\n")
    assert seen == [" xdp ", "100% packet loss", "native and generic XDP can't be active at the same time.",
                    "0% packet loss"]


def test_lo_has_no_driver_for_native_xdp(lines):
    seen = lines("ip link set dev lo xdpdrv obj /bpf/xdp_drop.o 2>&1; echo $?")
    assert "underlying driver does not support XDP in native mode" in "\n".join(seen)
    assert seen[-1] == "2"


def test_aborted_packets_are_told_of(lines):
    """xdp:xdp_exception"""
    seen = lines(
        "mount -t debugfs none /sys/kernel/debug 2>/dev/null; cd /sys/kernel/debug/tracing || exit\n"
        "echo 1 > events/xdp/xdp_exception/enable\n"
        "ip link set dev lo xdp obj /bpf/xdp_many.o program xdp_aborted\n" + PING + "grep -o 'xdp_exception:.*' trace\n")
    assert seen[0] == "100% packet loss"
    assert seen[1].startswith("xdp_exception: prog_id=") and seen[1].endswith(" action=ABORTED ifindex=1")


def test_xdp_rxq_info_counts_by_queue_and_cpu(bpf_shell):
    """lab B60: a map with what to look for, per-CPU counts; every packet came in where it says"""
    result = bpf_shell("/bpf/attach_rxq /bpf/rxq_info.o lo 'ping -c3 -i0.01 127.0.0.1 >/dev/null'")
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "Running XDP on dev:lo (ifindex:1)", result.stderr.decode()
    assert lines[-1] == "rx_queue_index 0:sum 6 0"


TWO_VETHS = """
ip netns add a; ip netns add b
ip link add a0 type veth peer name a1; ip link set a1 netns a; ip -n a addr add 10.8.0.1/24 dev a1
ip link add b0 type veth peer name b1; ip link set b1 netns b; ip -n b addr add 10.8.0.2/24 dev b1
ip link set a0 up; ip link set b0 up; ip -n a link set a1 up; ip -n b link set b1 up
mount -t bpf none /sys/fs/bpf
bpftool prog load /bpf/redirect.o /sys/fs/bpf/redirect type xdp pinmaps /sys/fs/bpf/maps
A=$(cat /sys/class/net/a0/ifindex); B=$(cat /sys/class/net/b0/ifindex)
bpftool map update pinned /sys/fs/bpf/maps/ports key $A 0 0 0 value $B 0 0 0
bpftool map update pinned /sys/fs/bpf/maps/ports key $B 0 0 0 value $A 0 0 0
"""
PING_B = "ip netns exec a ping -c1 -W1 10.8.0.2 | grep -o '[0-9]*% packet loss'\n"


@pytest.mark.parametrize("mode", ["xdpgeneric", "xdpdrv"])
def test_packets_are_redirected_between_devices(lines, mode):
    """bpf_redirect_map() with a DEVMAP; drivers' frames need a program at the receiving end, too"""
    both = "".join(f"ip link set dev {dev} {mode} pinned /sys/fs/bpf/redirect\n" for dev in ("a0", "b0"))
    if mode == "xdpdrv":
        both += "".join(f"ip netns exec {dev[0]} ip link set dev {dev} xdpdrv obj /bpf/xdp_many.o program xdp_pass\n"
                        for dev in ("a1", "b1"))
    seen = lines(TWO_VETHS + PING_B + both + PING_B + "ip link del a0\n"
                 "for port in $A $B; do bpftool map lookup pinned /sys/fs/bpf/maps/ports key $port 0 0 0; done\n")
    assert seen[:2] == ["100% packet loss", "0% packet loss"], seen
    assert seen[2] == "key: 04 00 00 00  value: 06 00 00 00"
    assert "Not found" in seen[3:], seen     # what led to a0 went with it


def test_a_program_is_tried_on_a_packet(lines):
    """BPF_PROG_TEST_RUN: what it answers, and the packet that it leaves"""
    seen = lines(
        "mount -t bpf none /sys/fs/bpf; bpftool prog loadall /bpf/xdp_many.o /sys/fs/bpf/many\n"
        "printf '\\1\\2\\3\\4\\5\\6\\7\\10\\11\\12\\13\\14\\10\\0' > /tmp/in\n"
        "printf '\\105\\0\\0\\34\\0\\0\\0\\0\\100\\1\\0\\0\\177\\0\\0\\1\\177\\0\\0\\2' >> /tmp/in\n"
        "printf '\\10\\0\\0\\0\\0\\0\\0\\0' >> /tmp/in\n"
        "for name in xdp_no_icmp xdp_echo; do\n"
        "bpftool prog run pinned /sys/fs/bpf/many/$name data_in /tmp/in data_out /tmp/out | grep -o 'Return value: .'\n"
        "done; od -An -tx1 /tmp/out | head -1\n")
    assert seen == ["Return value: 1", "Return value: 3", " 07 08 09 0a 0b 0c 01 02 03 04 05 06 08 00 45 00"]


def test_the_whole_lab_inside(lines):
    """lab B61: clang, readelf, ip link set dev lo xdp obj, ping, xdp off"""
    seen = lines(
        "cd /tmp; cat > xdp-drop.c <<'E'\n#include <linux/bpf.h>\n"
        "int __attribute__((section(\"prog\"))) xdp_drop(struct xdp_md *ctx) { return XDP_DROP; }\n"
        "char _license[] __attribute__((section(\"license\"))) = \"GPL\";\nE\n"
        "clang -O2 -Wall -target bpf -I/usr/include/x86_64-linux-gnu/ -c xdp-drop.c -o xdp-drop.o\n"
        "readelf -h xdp-drop.o | grep -o 'Linux BPF'; ip link set dev lo xdp obj xdp-drop.o\n" + PING
        + "ip link set dev lo xdp off; ip a | grep -c xdp\n" + PING)
    assert seen == ["Linux BPF", "100% packet loss", "0", "0% packet loss"]
