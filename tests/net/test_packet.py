"""AF_PACKET: packet(7)."""
from __future__ import annotations

import pytest


@pytest.fixture
def host_c(build_c, host):
    """host_c(source) -> what a C program prints on this host, in a network namespace with nothing but lo."""

    def run(source):
        return host(["unshare", "-n", str(build_c(source))]).stdout

    return run


HEADER = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#define TEST 0x88b5

static int lo_up(void)
{
    struct ifreq ifr = {.ifr_name = "lo"};
    int s = socket(AF_PACKET, SOCK_DGRAM, 0);
    ioctl(s, SIOCGIFFLAGS, &ifr);
    ifr.ifr_flags |= IFF_UP;
    return ioctl(s, SIOCSIFFLAGS, &ifr) || close(s);
}
static int tap(int type, int protocol)
{
    struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = 1};
    int s = socket(AF_PACKET, type, htons(protocol));
    if (bind(s, (void *)&ll, sizeof ll)) perror("bind");
    return s;
}
static void show(const char *what, int s)
{
    unsigned char b[200];
    struct sockaddr_ll ll;
    socklen_t l = sizeof ll;
    memset(&ll, 0x55, sizeof ll);
    int n = recvfrom(s, b, sizeof b, MSG_DONTWAIT, (void *)&ll, &l);
    if (n < 0) { printf("%s: errno %d\n", what, errno); return; }
    printf("%s: %d bytes, address of %d: proto %04x if %d type %d pkt %d halen %d:", what, n, l, ntohs(ll.sll_protocol),
           ll.sll_ifindex, ll.sll_hatype, ll.sll_pkttype, ll.sll_halen);
    for (int i = 0; i < n; i++) printf(" %02x", b[i]);
    printf("\n");
}
"""


def test_taps_see_what_lo_sends_and_receives(run_c, host_c):
    source = HEADER + r"""
int main(void)
{
    lo_up();
    int raw = tap(SOCK_RAW, ETH_P_ALL), cooked = tap(SOCK_DGRAM, TEST), other = tap(SOCK_DGRAM, TEST + 1);
    struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(TEST), .sll_ifindex = 1, .sll_halen = 6};
    char frame[20] = "\1\2\3\4\5\6\7\10\11\12\13\14\x88\xb5""hello";
    printf("%zd\n", sendto(cooked, "abc", 3, 0, (void *)&ll, sizeof ll));
    show("raw", raw); show("raw", raw); show("raw", raw);
    show("cooked", cooked); show("cooked", cooked); show("other", other);
    printf("%zd\n", send(raw, frame, 19, 0));
    show("raw", raw); show("raw", raw);
    show("cooked", cooked); show("other", other);
    struct tpacket_stats st;
    socklen_t l = sizeof st;
    getsockopt(raw, SOL_PACKET, PACKET_STATISTICS, &st, &l);
    printf("%d %d\n", st.tp_packets, st.tp_drops);
    socklen_t nl = sizeof ll;
    getsockname(raw, (void *)&ll, &nl);
    printf("%d %d %04x\n", nl, ll.sll_halen, ntohs(ll.sll_protocol));
    printf("%zd", send(raw, frame, 5, 0)); printf(" %d\n", errno);
    printf("%zd", sendto(cooked, "x", 1, 0, (void *)&ll, 10)); printf(" %d\n", errno);
    ll.sll_ifindex = 9999;
    printf("%zd", sendto(cooked, "x", 1, 0, (void *)&ll, sizeof ll)); printf(" %d\n", errno);
    printf("%d", bind(raw, (void *)&ll, sizeof ll)); printf(" %d\n", errno);
    printf("%d", socket(AF_PACKET, SOCK_STREAM, 0)); printf(" %d\n", errno);
    return 0;
}"""
    ours = run_c(source)
    assert ours.status == 0
    assert ours.stdout == host_c(source)


def test_a_filter_runs_before_the_queue(run_c, host_c):
    source = HEADER + r"""
int main(void)
{
    lo_up();
    struct sock_filter code[] = {{0x30, 0, 0, 14}, {0x15, 0, 1, 'y'}, {6, 0, 0, 18}, {6, 0, 0, 0}};
    struct sock_fprog prog = {4, code};
    int s = tap(SOCK_RAW, TEST);
    char frame[64] = "\0\0\0\0\0\0\0\0\0\0\0\0\x88\xb5""nnnnnnnn";
    printf("%d\n", setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog));
    int one = 1;
    setsockopt(s, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one);
    send(s, frame, 64, 0);
    frame[14] = 'y';
    send(s, frame, 64, 0);
    usleep(1000);
    char b[100], c[100];
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    printf("%zd %d\n", recvmsg(s, &m, MSG_DONTWAIT), b[14]);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    struct tpacket_auxdata *a = (void *)CMSG_DATA(h);
    printf("%d %d %d: %x %d %d %d %d\n", h->cmsg_level, h->cmsg_type, (int)h->cmsg_len, a->tp_status, a->tp_len,
           a->tp_snaplen, a->tp_mac, a->tp_net);
    printf("%zd\n", recvmsg(s, &m, MSG_DONTWAIT));
    return 0;
}"""
    ours = run_c(source)
    assert ours.status == 0
    assert ours.stdout == host_c(source)


def test_a_receive_ring_of_version_2(run_c, host_c):
    source = HEADER + r"""
int main(void)
{
    lo_up();
    int s = tap(SOCK_RAW, TEST), t = tap(SOCK_RAW, TEST + 1), v = TPACKET_V2;
    struct tpacket_req req = {8192, 2, 1024, 16}, bad = {4096, 1, 1000, 4}, none = {0};
    socklen_t l = sizeof v;
    v = TPACKET_V2; printf("%d", getsockopt(s, SOL_PACKET, PACKET_HDRLEN, &v, &l)); printf(" %d\n", v);
    v = TPACKET_V2; printf("%d\n", setsockopt(s, SOL_PACKET, PACKET_VERSION, &v, sizeof v));
    printf("%d", setsockopt(s, SOL_PACKET, PACKET_RX_RING, &bad, sizeof bad)); printf(" %d\n", errno);
    printf("%d\n", setsockopt(s, SOL_PACKET, PACKET_RX_RING, &req, sizeof req));
    char *ring = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, s, 0);
    printf("%d\n", ring == MAP_FAILED);
    struct pollfd p = {s, POLLIN, 0};
    printf("%d\n", poll(&p, 1, 0));
    char frame[100] = "\1\1\1\1\1\1\2\2\2\2\2\2\x88\xb5""hello";
    for (int i = 0; i < 12; i++) { frame[19] = i; send(t, frame, 60 + i, 0); }
    printf("%d %d\n", poll(&p, 1, 0), p.revents);
    for (int i = 0; i < 20; i++) {
        struct tpacket2_hdr *h = (void *)(ring + i % 16 * 1024);
        struct sockaddr_ll *ll = (void *)((char *)h + TPACKET_ALIGN(sizeof *h));
        if (i == 16) { for (int j = 0; j < 4; j++) { frame[19] = 50 + j; send(t, frame, 80, 0); } }
        printf("%x %d %d %d %d %d %d %d", h->tp_status & 0xff, h->tp_len, h->tp_snaplen, h->tp_mac, h->tp_net,
               h->tp_sec > 1000, h->tp_nsec < 1000000000, h->tp_vlan_tci);
        printf(" %d %04x %d %d %s %d\n", ll->sll_family, ntohs(ll->sll_protocol), ll->sll_ifindex, ll->sll_pkttype,
               (char *)h + h->tp_mac + 14, h->tp_mac ? ((char *)h)[h->tp_mac + 19] : 0);
        h->tp_status = 0;
    }
    printf("%d", setsockopt(s, SOL_PACKET, PACKET_RX_RING, &none, sizeof none)); printf(" %d\n", errno);
    munmap(ring, 16384);
    printf("%d\n", setsockopt(s, SOL_PACKET, PACKET_RX_RING, &none, sizeof none));
    return 0;
}"""
    ours = run_c(source)
    assert ours.status == 0
    assert ours.stdout == host_c(source)


def test_promiscuity_ends_with_its_last_socket(run_c):
    assert run_c(HEADER + r"""
static int flags(int s) { struct ifreq i = {.ifr_name = "lo"}; ioctl(s, SIOCGIFFLAGS, &i); return i.ifr_flags & IFF_PROMISC; }
int main(void)
{
    lo_up();
    int s = tap(SOCK_RAW, 0), t = tap(SOCK_RAW, 0);
    struct packet_mreq m = {1, PACKET_MR_PROMISC};
    if (setsockopt(s, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m)) return 1;
    if (setsockopt(t, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m)) return 2;
    if (setsockopt(t, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof m)) return 3;
    if (setsockopt(t, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof m) != -1 || errno != EADDRNOTAVAIL) return 4;
    close(s);
    m.mr_ifindex = 9999;
    if (setsockopt(t, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m) != -1 || errno != ENODEV) return 5;
    return flags(t) != 0;
}""").status == 0
