"""TCP headers and options of what arrives.

Linux: net/ipv4/tcp_input.c (5.3), tcp_parse_options(). Same: what counts where (window scale, SACK permitted and MSS
only in a SYN). Gaps: MD5, Fast Open, SMC.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.tcp_types import TCP_MAX_WSCALE, TCP_SACK_SEEN, TCPHDR_SYN, TcpHdr

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpOptionsReceived, TcpSock
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

_HEADER = Struct(">HHIIBBHHH")
_TIMESTAMPS = Struct(">III")
_PAIR = Struct(">II")


@notrace
def tcp_hdr(skb: SkBuff) -> TcpHdr:
    """The header at skb.transport_header, whose 20 bytes are linear."""
    return TcpHdr(_HEADER.unpack_from(skb.head, skb.transport_header))


def tcp_parse_options(net: Net, skb: SkBuff, th: TcpHdr, opt_rx: TcpOptionsReceived, estab: bool) -> None:
    """Reads all options. estab: the connection stands, and says what was agreed on."""
    sysctl = net.ipv4.sysctl
    opt_rx.saw_tstamp = False
    opt_rx.sacks = []
    head = skb.head
    at = skb.transport_header + 20
    end = skb.transport_header + th.doff
    syn = th.flags & TCPHDR_SYN
    while at < end:
        opcode = head[at]
        if opcode == 0:
            return
        if opcode == 1:
            at += 1
            continue
        if at + 2 > end:
            return
        opsize = head[at + 1]
        if opsize < 2 or at + opsize > end:
            return
        if opcode == 2:
            if opsize == 4 and syn and not estab:
                in_mss = int.from_bytes(head[at + 2 : at + 4], "big")
                if in_mss:
                    user_mss = opt_rx.user_mss
                    opt_rx.mss_clamp = min(user_mss, in_mss) if user_mss else in_mss
        elif opcode == 3:
            if opsize == 3 and syn and not estab and sysctl["tcp_window_scaling"]:
                opt_rx.wscale_ok = True
                opt_rx.snd_wscale = min(head[at + 2], TCP_MAX_WSCALE)
        elif opcode == 8:
            if opsize == 10 and (opt_rx.tstamp_ok if estab else sysctl["tcp_timestamps"]):
                opt_rx.saw_tstamp = True
                opt_rx.rcv_tsval, opt_rx.rcv_tsecr = _PAIR.unpack_from(head, at + 2)
        elif opcode == 4:
            if opsize == 2 and syn and not estab and sysctl["tcp_sack"]:
                opt_rx.sack_ok = TCP_SACK_SEEN
                opt_rx.dsack = False     # tcp_sack_reset()
                opt_rx.num_sacks = 0
        elif opcode == 5 and opsize >= 10 and not (opsize - 2) % 8 and opt_rx.sack_ok:
            opt_rx.sacks = [_PAIR.unpack_from(head, where) for where in range(at + 2, at + opsize, 8)]
        at += opsize


@notrace
def tcp_fast_parse_options(net: Net, skb: SkBuff, th: TcpHdr, sk: TcpSock) -> bool:
    """Options of an established connection: usually none, or one aligned timestamp. True: there is a timestamp."""
    rx_opt = sk.rx_opt
    if rx_opt.sacks:
        rx_opt.sacks = []
    if th.doff == 20:
        rx_opt.saw_tstamp = False
        return False
    if rx_opt.tstamp_ok and th.doff == 32:
        word, tsval, tsecr = _TIMESTAMPS.unpack_from(skb.head, skb.transport_header + 20)
        if word == 0x0101080A:
            rx_opt.saw_tstamp = True
            rx_opt.rcv_tsval = tsval
            rx_opt.rcv_tsecr = tsecr - sk.tsoffset & 0xFFFFFFFF if tsecr else 0
            return True
    tcp_parse_options(net, skb, th, rx_opt, True)
    if rx_opt.saw_tstamp and rx_opt.rcv_tsecr:
        rx_opt.rcv_tsecr = rx_opt.rcv_tsecr - sk.tsoffset & 0xFFFFFFFF
    return True
