"""What the peer says it got: SACK blocks, and DSACKs of what it got twice.

Linux: net/ipv4/tcp_input.c (5.3), tcp_sacktag_write_queue() and neighbours. Same: which blocks are believed; a block
that covers half of a segment splits it. Differs: walks the whole queue for each ACK (Linux caches where it was).
Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.tcp_loss import tcp_check_sack_reordering, tcp_highest_sack_seq
from glasskernel.net.ipv4.tcp_output import tcp_fragment
from glasskernel.net.ipv4.tcp_recovery import tcp_rack_advance
from glasskernel.net.ipv4.tcp_rtt import tcp_rate_skb_delivered
from glasskernel.net.ipv4.tcp_types import (
    FLAG_DATA_SACKED,
    FLAG_DSACKING_ACK,
    FLAG_ORIG_SACK_ACKED,
    TCP_DSACK_SEEN,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSacktagState, TcpSock
    from glasskernel.net.skbuff import SkBuff


@notrace
def tcp_is_sackblock_valid(sk: TcpSock, is_dsack: bool, start_seq: int, end_seq: int) -> bool:
    """A block lies inside what we sent; a DSACK may lie below, within the last window."""
    if after(end_seq, sk.snd_nxt) or not before(start_seq, end_seq) or not before(start_seq, sk.snd_nxt):
        return False
    if after(start_seq, sk.snd_una):
        return True
    if not is_dsack or not sk.undo_marker or after(end_seq, sk.snd_una):
        return False
    if not before(start_seq, sk.undo_marker):
        return True
    return after(end_seq, sk.undo_marker) and not before(start_seq, end_seq - sk.max_window & 0xFFFFFFFF)


def tcp_check_dsack(sk: TcpSock, ack: int, blocks: list[tuple[int, int]], prior_snd_una: int) -> bool:
    """The first block tells of a duplicate: it lies below the ACK, or inside the second block."""
    start, end = blocks[0]
    mib = sk.sk_net.mib.net
    if before(start, ack):
        mib["TCPDSACKRecv"] += 1
    elif len(blocks) > 1 and not after(end, blocks[1][1]) and not before(start, blocks[1][0]):
        mib["TCPDSACKOfoRecv"] += 1
    else:
        return False
    sk.rx_opt.sack_ok |= TCP_DSACK_SEEN
    sk.dsack_dups += 1
    sk.rack_dsack_seen = True
    if sk.undo_marker and sk.undo_retrans > 0 and not after(end, prior_snd_una) and after(end, sk.undo_marker):
        sk.undo_retrans -= 1             # one retransmission was not needed
    return True


@notrace
def tcp_match_skb_to_sack(sk: TcpSock, skb: SkBuff, start_seq: int, end_seq: int) -> bool:
    """The block covers the segment; a longer one is cut so that it does, at a multiple of its MSS."""
    tcb = skb.cb
    if not after(start_seq, tcb.seq) and not before(end_seq, tcb.end_seq):
        return True
    if tcb.tcp_gso_segs <= 1 or not after(tcb.end_seq, start_seq):
        return False
    mss = tcb.tcp_gso_size
    if not after(start_seq, tcb.seq):    # its first half
        pkt_len = (end_seq - tcb.seq & 0xFFFFFFFF) // mss * mss
        if not pkt_len:
            return False
        inside = True
    else:                                # its second half
        pkt_len = start_seq - tcb.seq & 0xFFFFFFFF
        pkt_len = -(-pkt_len // mss) * mss
        inside = False
    if pkt_len >= skb.len:
        return False
    tcp_fragment(sk, skb, pkt_len, mss, True)
    return inside


def tcp_sacktag_one(sk: TcpSock, state: TcpSacktagState, skb: SkBuff, dup_sack: bool) -> None:
    """A segment lies inside a block."""
    tcb = skb.cb
    sacked, pcount, end_seq = tcb.sacked, tcb.tcp_gso_segs, tcb.end_seq
    if dup_sack and sacked & TCPCB_RETRANS:
        if sk.undo_marker and sk.undo_retrans > 0 and after(end_seq, sk.undo_marker):
            sk.undo_retrans -= 1
        if sacked & TCPCB_SACKED_ACKED and before(tcb.seq, state.reord):
            state.reord = tcb.seq
    if not after(end_seq, sk.snd_una):
        return
    if not sacked & TCPCB_SACKED_ACKED:
        xmit_time = tcb.skb_mstamp_ns // 1000
        tcp_rack_advance(sk, sacked, end_seq, xmit_time)
        if sacked & TCPCB_SACKED_RETRANS:
            if sacked & TCPCB_LOST:      # the retransmission has arrived
                sacked &= ~(TCPCB_LOST | TCPCB_SACKED_RETRANS)
                sk.lost_out -= pcount
                sk.retrans_out -= pcount
        else:
            if not sacked & TCPCB_RETRANS:
                if before(tcb.seq, tcp_highest_sack_seq(sk)) and before(tcb.seq, state.reord):
                    state.reord = tcb.seq
                if not after(end_seq, sk.high_seq):
                    state.flag |= FLAG_ORIG_SACK_ACKED
                if not state.first_sackt:
                    state.first_sackt = xmit_time
                state.last_sackt = xmit_time
            if sacked & TCPCB_LOST:
                sacked &= ~TCPCB_LOST
                sk.lost_out -= pcount
        sacked |= TCPCB_SACKED_ACKED
        state.flag |= FLAG_DATA_SACKED
        sk.sacked_out += pcount
        sk.delivered += pcount
        if sk.sacked_out == pcount or after(end_seq, sk.highest_sack_end):
            sk.highest_sack_end = end_seq
        if state.rate is not None:
            tcp_rate_skb_delivered(sk, skb, state.rate)
    if dup_sack and sacked & TCPCB_SACKED_RETRANS:
        sacked &= ~TCPCB_SACKED_RETRANS
        sk.retrans_out -= pcount
    tcb.sacked = sacked


def tcp_sacktag_walk(sk: TcpSock, state: TcpSacktagState, start_seq: int, end_seq: int, dup_sack: bool) -> None:
    """Marks the segments of a block."""
    at = 0
    queue = sk.tcp_rtx_queue
    while at < len(queue):               # it may grow, where segments are cut
        skb = queue[at]
        tcb = skb.cb
        if not before(tcb.seq, end_seq):
            return
        if after(tcb.end_seq, start_seq) and tcp_match_skb_to_sack(sk, skb, start_seq, end_seq):
            tcp_sacktag_one(sk, state, skb, dup_sack)
        at += 1


def tcp_sacktag_write_queue(sk: TcpSock, ack: int, prior_snd_una: int, state: TcpSacktagState) -> None:
    """The SACK blocks of the packet in hand; state.flag says what they did."""
    blocks = sk.rx_opt.sacks
    state.reord = sk.snd_nxt
    if not sk.sacked_out:
        sk.highest_sack_end = sk.snd_una
    found_dup_sack = tcp_check_dsack(sk, ack, blocks, prior_snd_una)
    if found_dup_sack:
        state.flag |= FLAG_DSACKING_ACK
        if state.rate is not None:
            sk.delivered += 1
    if before(ack, prior_snd_una - sk.max_window & 0xFFFFFFFF) or not sk.packets_out:
        return
    mib = sk.sk_net.mib.net
    for i, (start, end) in enumerate(blocks):
        dup_sack = found_dup_sack and i == 0
        if not tcp_is_sackblock_valid(sk, dup_sack, start, end):
            mib["TCPDSACKIgnoredOld" if dup_sack else "TCPSACKDiscard"] += 1
        elif after(end, sk.snd_una):
            tcp_sacktag_walk(sk, state, start, end, dup_sack)
    if sk.icsk_ca_state != 4 or sk.undo_marker:
        tcp_check_sack_reordering(sk, state.reord, False)
