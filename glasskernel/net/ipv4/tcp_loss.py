"""Losses: from Open over Disorder, CWR, Recovery and Loss back to Open; and taking it back when it was none.

Linux: net/ipv4/tcp_input.c (5.3). Same: proportional rate reduction (RFC 6937), NewReno (RFC 6582), F-RTO (RFC 5682),
undo by timestamps and DSACKs. Locks: sk's owner, or softirq while nobody owns it.
Gaps: ECN, the heuristics of tcp_recovery=0.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import usecs_to_jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_output import __tcp_push_pending_frames, tcp_rearm_rto
from glasskernel.net.ipv4.tcp_recovery import (
    tcp_mark_skb_lost,
    tcp_newreno_mark_lost,
    tcp_rack_detect_loss,
    tcp_rack_mark_lost,
    tcp_rack_skb_timeout,
)
from glasskernel.net.ipv4.tcp_retransmit import tcp_xmit_retransmit_queue
from glasskernel.net.ipv4.tcp_types import (
    CA_EVENT_COMPLETE_CWR,
    CA_EVENT_LOSS,
    FLAG_DATA_SACKED,
    FLAG_DSACKING_ACK,
    FLAG_LOST_RETRANS,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_RETRANS_DATA_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SND_UNA_ADVANCED,
    ICSK_TIME_RETRANS,
    REXMIT_LOST,
    REXMIT_NEW,
    REXMIT_NONE,
    TCP_CA_CWR,
    TCP_INFINITE_SSTHRESH,
    TCP_NAGLE_OFF,
    TCP_RTO_MAX,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCP_CA_Disorder,
    TCP_CA_Loss,
    TCP_CA_Open,
    TCP_CA_Recovery,
    after,
    before,
    tcp_packets_in_flight,
    tcp_wnd_end,
)
from glasskernel.net.ipv4.tcp_window import (
    tcp_ca_event,
    tcp_current_mss,
    tcp_current_ssthresh,
    tcp_init_cwnd_reduction,
    tcp_set_ca_state,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock


@notrace
def tcp_in_cwnd_reduction(sk: TcpSock) -> bool:
    return sk.icsk_ca_state in (TCP_CA_CWR, TCP_CA_Recovery)


@notrace
def tcp_highest_sack_seq(sk: TcpSock) -> int:
    return sk.highest_sack_end if sk.sacked_out and sk.rx_opt.sack_ok else sk.snd_una


# ---- without SACK: duplicate ACKs count as if they were SACKs --------------------------------------------------
@notrace
def tcp_limit_reno_sacked(sk: TcpSock) -> bool:
    holes = min(max(sk.lost_out, 1), sk.packets_out)
    if sk.sacked_out + holes > sk.packets_out:
        sk.sacked_out = sk.packets_out - holes
        return True
    return False


def tcp_check_reno_reordering(sk: TcpSock, addend: int) -> None:
    if tcp_limit_reno_sacked(sk):
        sk.reordering = min(sk.packets_out + addend, sk.sk_net.ipv4.sysctl["tcp_max_reordering"])
        sk.reord_seen += 1
        sk.sk_net.mib.net["TCPRenoReorder"] += 1


def tcp_add_reno_sack(sk: TcpSock, num_dupack: int) -> None:
    if num_dupack:
        prior = sk.sacked_out
        sk.sacked_out += num_dupack
        tcp_check_reno_reordering(sk, 0)
        if sk.sacked_out > prior:
            sk.delivered += sk.sacked_out - prior


def tcp_remove_reno_sacks(sk: TcpSock, acked: int) -> None:
    if acked > 0:
        sk.delivered += max(acked - sk.sacked_out, 1)
        sk.sacked_out = 0 if acked - 1 >= sk.sacked_out else sk.sacked_out - (acked - 1)
    tcp_check_reno_reordering(sk, acked)


def tcp_check_sack_reordering(sk: TcpSock, low_seq: int, ts: bool) -> None:
    """Something old arrived after something new: segments overtake each other by that much."""
    fack = tcp_highest_sack_seq(sk)
    if not before(low_seq, fack):
        return
    metric = fack - low_seq & 0xFFFFFFFF
    mss = sk.mss_cache
    if metric > sk.reordering * mss and mss:
        sk.reordering = min((metric + mss - 1) // mss, sk.sk_net.ipv4.sysctl["tcp_max_reordering"])
    sk.reord_seen += 1
    sk.sk_net.mib.net["TCPTSReorder" if ts else "TCPSACKReorder"] += 1


# ---- the congestion window goes down ------------------------------------------------------------------------------
def tcp_cwnd_reduction(sk: TcpSock, newly_acked_sacked: int, flag: int) -> None:
    """PRR: sends in the proportion in which data arrives, down to ssthresh."""
    delta = sk.snd_ssthresh - tcp_packets_in_flight(sk)
    if newly_acked_sacked <= 0 or not sk.prior_cwnd:
        return
    sk.prr_delivered += newly_acked_sacked
    if delta < 0:
        sndcnt = (sk.snd_ssthresh * sk.prr_delivered + sk.prior_cwnd - 1) // sk.prior_cwnd - sk.prr_out
    elif flag & (FLAG_RETRANS_DATA_ACKED | FLAG_LOST_RETRANS) == FLAG_RETRANS_DATA_ACKED:
        sndcnt = min(delta, max(sk.prr_delivered - sk.prr_out, newly_acked_sacked) + 1)
    else:
        sndcnt = min(delta, newly_acked_sacked)
    sndcnt = max(sndcnt, 0 if sk.prr_out else 1)         # the first one always goes
    sk.snd_cwnd = tcp_packets_in_flight(sk) + sndcnt


def tcp_end_cwnd_reduction(sk: TcpSock) -> None:
    if sk.snd_ssthresh < TCP_INFINITE_SSTHRESH and (sk.icsk_ca_state == TCP_CA_CWR or sk.undo_marker):
        sk.snd_cwnd = sk.snd_ssthresh
        sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    tcp_ca_event(sk, CA_EVENT_COMPLETE_CWR)


@notrace
def tcp_any_retrans_done(sk: TcpSock) -> bool:
    return bool(sk.retrans_out or (sk.tcp_rtx_queue and sk.tcp_rtx_queue[0].cb.sacked & 0x80))


@notrace
def tcp_retrans_stamp_cleanup(sk: TcpSock) -> None:
    if not tcp_any_retrans_done(sk):
        sk.retrans_stamp = 0


def tcp_try_keep_open(sk: TcpSock) -> None:
    state = TCP_CA_Disorder if sk.sacked_out + sk.lost_out or tcp_any_retrans_done(sk) else TCP_CA_Open
    if sk.icsk_ca_state != state:
        tcp_set_ca_state(sk, state)
        sk.high_seq = sk.snd_nxt


def tcp_try_to_open(sk: TcpSock) -> None:
    tcp_retrans_stamp_cleanup(sk)
    if sk.icsk_ca_state != TCP_CA_CWR:
        tcp_try_keep_open(sk)


# ---- taking it back -----------------------------------------------------------------------------------------------
@notrace
def tcp_init_undo(sk: TcpSock) -> None:
    sk.undo_marker = sk.snd_una
    sk.undo_retrans = sk.retrans_out or -1


@notrace
def tcp_packet_delayed(sk: TcpSock) -> bool:
    """The ACK was for something sent before the first retransmission."""
    return bool(sk.retrans_stamp and sk.rx_opt.saw_tstamp and sk.rx_opt.rcv_tsecr
                and before(sk.rx_opt.rcv_tsecr, sk.retrans_stamp & 0xFFFFFFFF))


@notrace
def tcp_may_undo(sk: TcpSock) -> bool:
    return bool(sk.undo_marker) and (not sk.undo_retrans or tcp_packet_delayed(sk))


def tcp_undo_cwnd_reduction(sk: TcpSock, unmark_loss: bool) -> None:
    if unmark_loss:
        for skb in sk.tcp_rtx_queue:
            skb.cb.sacked &= ~TCPCB_LOST
        sk.lost_out = 0
    if sk.prior_ssthresh:
        sk.snd_cwnd = sk.icsk_ca_ops.undo_cwnd(sk)
        if sk.prior_ssthresh > sk.snd_ssthresh:
            sk.snd_ssthresh = sk.prior_ssthresh
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    sk.undo_marker = 0
    sk.rack_advanced = True              # forces RACK to look again


def tcp_try_undo_recovery(sk: TcpSock) -> bool:
    """All that was out when the loss was seen is acknowledged. True: stay in the state, for NewReno's sake."""
    mib = sk.sk_net.mib.net
    if tcp_may_undo(sk):
        mib["TCPLossUndo" if sk.icsk_ca_state == TCP_CA_Loss else "TCPFullUndo"] += 1
        tcp_undo_cwnd_reduction(sk, False)
    elif sk.rack_reo_wnd_persist:
        sk.rack_reo_wnd_persist -= 1
    if sk.snd_una == sk.high_seq and not sk.rx_opt.sack_ok:
        tcp_retrans_stamp_cleanup(sk)
        return True
    tcp_set_ca_state(sk, TCP_CA_Open)
    return False


def tcp_try_undo_dsack(sk: TcpSock) -> bool:
    if sk.undo_marker and not sk.undo_retrans:
        sk.rack_reo_wnd_persist = min(16, sk.rack_reo_wnd_persist + 1)
        tcp_undo_cwnd_reduction(sk, False)
        sk.sk_net.mib.net["TCPDSACKUndo"] += 1
        return True
    return False


def tcp_try_undo_loss(sk: TcpSock, frto_undo: bool) -> bool:
    """The timeout was too early."""
    if not frto_undo and not tcp_may_undo(sk):
        return False
    mib = sk.sk_net.mib.net
    tcp_undo_cwnd_reduction(sk, True)
    mib["TCPLossUndo"] += 1
    if frto_undo:
        mib["TCPSpuriousRTOs"] += 1
    sk.icsk_retransmits = 0
    if frto_undo or sk.rx_opt.sack_ok:
        tcp_set_ca_state(sk, TCP_CA_Open)
    return True


def tcp_try_undo_partial(sk: TcpSock, prior_snd_una: int) -> bool:
    if not sk.undo_marker or not tcp_packet_delayed(sk):
        return False
    tcp_check_sack_reordering(sk, prior_snd_una, True)
    if sk.retrans_out:                   # retransmissions are still out: wait for their DSACKs
        return True
    tcp_retrans_stamp_cleanup(sk)
    tcp_undo_cwnd_reduction(sk, True)
    sk.sk_net.mib.net["TCPPartialUndo"] += 1
    tcp_try_keep_open(sk)
    return True


# ---- the states ------------------------------------------------------------------------------------------
def tcp_enter_recovery(sk: TcpSock) -> None:
    """Fast retransmit begins."""
    sk.sk_net.mib.net["TCPSackRecovery" if sk.rx_opt.sack_ok else "TCPRenoRecovery"] += 1
    sk.prior_ssthresh = 0
    tcp_init_undo(sk)
    if not tcp_in_cwnd_reduction(sk):
        sk.prior_ssthresh = tcp_current_ssthresh(sk)
        tcp_init_cwnd_reduction(sk)
    tcp_set_ca_state(sk, TCP_CA_Recovery)


def tcp_timeout_mark_lost(sk: TcpSock) -> None:
    """A timeout: everything that RACK does not know to be young counts as lost."""
    head = sk.tcp_rtx_queue[0] if sk.tcp_rtx_queue else None
    is_reneg = head is not None and head.cb.sacked & TCPCB_SACKED_ACKED
    if is_reneg:                         # the peer threw away what it had SACKed
        sk.sk_net.mib.net["TCPSACKReneging"] += 1
        sk.sacked_out = 0
    elif not sk.rx_opt.sack_ok:
        sk.sacked_out = 0
    for skb in sk.tcp_rtx_queue:
        if is_reneg:
            skb.cb.sacked &= ~TCPCB_SACKED_ACKED
        elif sk.rx_opt.sack_ok and skb is not head and tcp_rack_skb_timeout(sk, skb, 0) > 0:
            continue
        tcp_mark_skb_lost(sk, skb)


def tcp_enter_loss(sk: TcpSock) -> None:
    """The retransmission timer fired: one segment at a time, from the start."""
    sysctl = sk.sk_net.ipv4.sysctl
    new_recovery = sk.icsk_ca_state < TCP_CA_Recovery
    tcp_timeout_mark_lost(sk)
    if (sk.icsk_ca_state <= TCP_CA_Disorder or not after(sk.high_seq, sk.snd_una)
            or (sk.icsk_ca_state == TCP_CA_Loss and not sk.icsk_retransmits)):
        sk.prior_ssthresh = tcp_current_ssthresh(sk)
        sk.prior_cwnd = sk.snd_cwnd
        sk.snd_ssthresh = sk.icsk_ca_ops.ssthresh(sk)
        tcp_ca_event(sk, CA_EVENT_LOSS)
        tcp_init_undo(sk)
    sk.snd_cwnd = tcp_packets_in_flight(sk) + 1
    sk.snd_cwnd_cnt = 0
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    if sk.icsk_ca_state <= TCP_CA_Disorder and sk.sacked_out >= sysctl["tcp_reordering"]:
        sk.reordering = min(sk.reordering, sysctl["tcp_reordering"])
    tcp_set_ca_state(sk, TCP_CA_Loss)
    sk.high_seq = sk.snd_nxt
    sk.frto = bool(sysctl["tcp_frto"]) and (new_recovery or bool(sk.icsk_retransmits))


def tcp_process_loss(sk: TcpSock, flag: int, num_dupack: int) -> int:
    """An ACK in Loss. Answers REXMIT_*."""
    recovered = not before(sk.snd_una, sk.high_seq)
    if flag & FLAG_SND_UNA_ADVANCED and tcp_try_undo_loss(sk, False):
        return REXMIT_NONE
    if sk.frto:
        if flag & FLAG_ORIG_SACK_ACKED and tcp_try_undo_loss(sk, True):
            return REXMIT_NONE
        if after(sk.snd_nxt, sk.high_seq):
            if flag & FLAG_DATA_SACKED or num_dupack:
                sk.frto = False          # new data was not acknowledged: it is a loss
        elif flag & FLAG_SND_UNA_ADVANCED and not recovered:
            sk.high_seq = sk.snd_nxt
            if sk.sk_write_queue.q and after(tcp_wnd_end(sk), sk.snd_nxt):
                return REXMIT_NEW        # send something new and see whether it is acknowledged
            sk.frto = False
    if recovered:
        tcp_try_undo_recovery(sk)
        return REXMIT_NONE
    if not sk.rx_opt.sack_ok:
        if after(sk.snd_nxt, sk.high_seq) and num_dupack:
            tcp_add_reno_sack(sk, num_dupack)
        elif flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
    return REXMIT_LOST


def tcp_identify_packet_loss(sk: TcpSock, flag: int) -> int:
    """Answers flag, with FLAG_LOST_RETRANS if a retransmission was lost."""
    if not sk.tcp_rtx_queue:
        return flag
    if not sk.rx_opt.sack_ok:
        tcp_newreno_mark_lost(sk, bool(flag & FLAG_SND_UNA_ADVANCED))
    else:
        prior_retrans = sk.retrans_out
        tcp_rack_mark_lost(sk)
        if prior_retrans > sk.retrans_out:
            flag |= FLAG_LOST_RETRANS
    return flag


@notrace
def tcp_check_sack_reneging(sk: TcpSock, flag: int) -> bool:
    """The peer took a SACK back, as it seems: let the timer decide, in a moment."""
    if not flag & FLAG_SACK_RENEGING:
        return False
    delay = max(usecs_to_jiffies(sk.srtt_us >> 4), HZ // 100)
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, delay, TCP_RTO_MAX)
    return True


def tcp_fastretrans_alert(sk: TcpSock, prior_snd_una: int, num_dupack: int, flag: int) -> tuple[int, int]:
    """An ACK that is not quite normal. Answers (flag, REXMIT_*)."""
    if not sk.packets_out and sk.sacked_out:
        sk.sacked_out = 0
    if tcp_check_sack_reneging(sk, flag):
        return flag, REXMIT_NONE
    state = sk.icsk_ca_state
    if state == TCP_CA_Open:
        sk.retrans_stamp = 0
    elif not before(sk.snd_una, sk.high_seq):
        if state == TCP_CA_CWR:
            if sk.snd_una != sk.high_seq:                # something above it: it is over
                tcp_end_cwnd_reduction(sk)
                tcp_set_ca_state(sk, TCP_CA_Open)
        elif state == TCP_CA_Recovery:
            if not sk.rx_opt.sack_ok:
                sk.sacked_out = 0
            if tcp_try_undo_recovery(sk):
                return flag, REXMIT_NONE
            tcp_end_cwnd_reduction(sk)
    state = sk.icsk_ca_state
    if state == TCP_CA_Recovery:
        if not flag & FLAG_SND_UNA_ADVANCED:
            if not sk.rx_opt.sack_ok:
                tcp_add_reno_sack(sk, num_dupack)
        elif tcp_try_undo_partial(sk, prior_snd_una):
            return flag, REXMIT_NONE
        if tcp_try_undo_dsack(sk):
            tcp_try_keep_open(sk)
            return flag, REXMIT_NONE
        return tcp_identify_packet_loss(sk, flag), REXMIT_LOST
    if state == TCP_CA_Loss:
        rexmit = tcp_process_loss(sk, flag, num_dupack)
        flag = tcp_identify_packet_loss(sk, flag)
        if not (sk.icsk_ca_state == TCP_CA_Open or flag & FLAG_LOST_RETRANS):
            return flag, rexmit
    if not sk.rx_opt.sack_ok:
        if flag & FLAG_SND_UNA_ADVANCED:
            sk.sacked_out = 0
        tcp_add_reno_sack(sk, num_dupack)
    if sk.icsk_ca_state <= TCP_CA_Disorder:
        tcp_try_undo_dsack(sk)
    flag = tcp_identify_packet_loss(sk, flag)
    if not sk.lost_out:                  # tcp_time_to_recover()
        tcp_try_to_open(sk)
        return flag, REXMIT_NONE
    tcp_enter_recovery(sk)
    return flag, REXMIT_LOST


def tcp_rack_reo_timeout(sk: TcpSock) -> None:
    """The time for reordering is over."""
    prior_inflight = tcp_packets_in_flight(sk)
    tcp_rack_detect_loss(sk)
    if prior_inflight != tcp_packets_in_flight(sk):
        if sk.icsk_ca_state != TCP_CA_Recovery:
            tcp_enter_recovery(sk)
            tcp_cwnd_reduction(sk, 1, 0)
        tcp_xmit_retransmit_queue(sk)
    if sk.icsk_pending != ICSK_TIME_RETRANS:
        tcp_rearm_rto(sk)


def tcp_process_tlp_ack(sk: TcpSock, ack: int, flag: int) -> None:
    """An ACK after a loss probe: did the probe repair a loss that nobody saw?"""
    if before(ack, sk.tlp_high_seq):
        return
    if flag & FLAG_DSACKING_ACK:         # both arrived
        sk.tlp_high_seq = 0
    elif after(ack, sk.tlp_high_seq):
        tcp_init_cwnd_reduction(sk)
        tcp_set_ca_state(sk, TCP_CA_CWR)
        tcp_end_cwnd_reduction(sk)
        tcp_try_keep_open(sk)
        sk.sk_net.mib.net["TCPLossProbeRecovery"] += 1
    elif not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        sk.tlp_high_seq = 0              # a pure duplicate: both arrived


def tcp_xmit_recovery(sk: TcpSock, rexmit: int) -> None:
    """Sends what the ACK allowed."""
    if rexmit == REXMIT_NONE:
        return
    if rexmit == REXMIT_NEW:
        __tcp_push_pending_frames(sk, tcp_current_mss(sk), TCP_NAGLE_OFF)
        if after(sk.snd_nxt, sk.high_seq):
            return
        sk.frto = False
    tcp_xmit_retransmit_queue(sk)
