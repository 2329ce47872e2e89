"""Debian's tcpdump on our AF_PACKET (A271)."""
from __future__ import annotations

import re

PINGED = r"""
tcpdump -n -i {device} -c {count} {options} {filter} >/tmp/dump 2>/tmp/messages &
while ! grep -q listening /tmp/messages; do sleep 0.01; done
{traffic}
wait
sed 's/^[0-9:.]* //' /tmp/dump; tail -3 /tmp/messages
"""


def dump(run, device, count, traffic, options="", filter=""):
    done = run(PINGED.format(device=device, count=count, options=options, filter=filter, traffic=traffic))
    assert done.status == 0, done.stderr
    return done.stdout.decode()


def test_a_ping_on_lo_is_decoded(run):
    text = dump(run, "lo", 2, "ping -c 1 127.0.0.1 >/dev/null")
    assert re.match(r"IP 127\.0\.0\.1 > 127\.0\.0\.1: ICMP echo request, id \d+, seq 1, length 64\n"
                    r"IP 127\.0\.0\.1 > 127\.0\.0\.1: ICMP echo reply, id \d+, seq 1, length 64\n"
                    r"2 packets captured\n4 packets received by filter\n0 packets dropped by kernel\n", text), text


def test_arp_and_the_router_s_answers_on_eth0(run):
    text = dump(run, "eth0", 4, "ping -c 1 10.0.2.2 >/dev/null", options="-e")
    assert "52:54:00:12:34:56 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: Request who-has 10.0.2.2" in text
    assert "52:55:0a:00:02:02 > 52:54:00:12:34:56, ethertype ARP (0x0806), length 60: Reply 10.0.2.2 is-at" in text
    assert text.count("ICMP echo re") == 2
    assert "4 packets received by filter" in text


def test_a_filter_runs_in_the_kernel(run):
    text = dump(run, "lo", 1, "ping -c 1 127.0.0.1 >/dev/null", filter="icmp[0] == 0")
    assert "ICMP echo reply" in text and "echo request" not in text
    assert "2 packets received by filter" in text            # on its way out, and in


def test_a_closed_port_of_the_router(run):
    traffic = "python3 -c 'import socket; socket.socket().connect_ex((\"10.0.2.2\", 80))'"
    text = dump(run, "eth0", 2, traffic, filter="tcp")
    assert re.search(r"IP 10\.0\.2\.15\.\d+ > 10\.0\.2\.2\.80: Flags \[S\], seq (\d+), win 64240", text), text
    assert re.search(r"IP 10\.0\.2\.2\.80 > 10\.0\.2\.15\.\d+: Flags \[R\.\], seq 0, ack \d+, win 0, length 0", text)


def test_a_capture_is_read_again(run):
    done = run("tcpdump -n -i lo -c 2 -w /tmp/c.pcap 2>/tmp/messages & while ! grep -q listening /tmp/messages; do sleep 0.01;"
               " done; ping -c 1 127.0.0.1 >/dev/null; wait; tcpdump -n -r /tmp/c.pcap 2>/dev/null | grep -c ICMP")
    assert done.stdout == b"2\n"


def test_any_device_cooked(run):
    text = dump(run, "any", 2, "ping -c 1 10.0.2.2 >/dev/null", filter="icmp")
    assert re.search(r"eth0  Out IP 10\.0\.2\.15 > 10\.0\.2\.2: ICMP echo request", text), text
    assert re.search(r"eth0  In  IP 10\.0\.2\.2 > 10\.0\.2\.15: ICMP echo reply", text)
