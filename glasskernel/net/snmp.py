"""Counters of the protocols: what /proc/net/snmp and /proc/net/netstat show.

Linux: include/net/snmp.h, ip.h, uapi/linux/snmp.h, netns/mib.h (5.3). Same: names and order, which is the files' order.
Differs: one set of counters for a namespace, not one for each CPU: `net.mib.ip["InReceives"] += 1`.
Owns: net.mib.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.net.types import Net

_IP = (
    "InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests "
    "OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates")
_ICMP = (
    "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos "
    "InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutDestUnreachs "
    "OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps "
    "OutAddrMasks OutAddrMaskReps")
_TCP = (
    "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs "
    "OutSegs RetransSegs InErrs OutRsts InCsumErrors")
_UDP = "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti"
_TCP_EXT = (
    "SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned OfoPruned "
    "OutOfWindowIcmps LockDroppedIcmps ArpFilter TW TWRecycled TWKilled PAWSActive PAWSEstab DelayedACKs "
    "DelayedACKLocked DelayedACKLost ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks "
    "TCPRenoRecovery TCPSackRecovery TCPSACKReneging TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo "
    "TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPLostRetransmit TCPRenoFailures TCPSackFailures TCPLossFailures "
    "TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes TCPLossProbeRecovery TCPRenoRecoveryFail "
    "TCPSackRecoveryFail TCPRcvCollapsed TCPBacklogCoalesce TCPDSACKOldSent TCPDSACKOfoSent TCPDSACKRecv "
    "TCPDSACKOfoRecv TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger "
    "TCPAbortFailed TCPMemoryPressures TCPMemoryPressuresChrono TCPSACKDiscard TCPDSACKIgnoredOld "
    "TCPDSACKIgnoredNoUndo TCPSpuriousRTOs TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure TCPSackShifted "
    "TCPSackMerged TCPSackShiftFallback TCPBacklogDrop PFMemallocDrop TCPMinTTLDrop TCPDeferAcceptDrop "
    "IPReversePathFilter TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail "
    "TCPRcvCoalesce TCPOFOQueue TCPOFODrop TCPOFOMerge TCPChallengeACK TCPSYNChallenge TCPFastOpenActive "
    "TCPFastOpenActiveFail TCPFastOpenPassive TCPFastOpenPassiveFail TCPFastOpenListenOverflow "
    "TCPFastOpenCookieReqd TCPFastOpenBlackhole TCPSpuriousRtxHostQueues BusyPollRxPackets TCPAutoCorking "
    "TCPFromZeroWindowAdv TCPToZeroWindowAdv TCPWantZeroWindowAdv TCPSynRetrans TCPOrigDataSent "
    "TCPHystartTrainDetect TCPHystartTrainCwnd TCPHystartDelayDetect TCPHystartDelayCwnd TCPACKSkippedSynRecv "
    "TCPACKSkippedPAWS TCPACKSkippedSeq TCPACKSkippedFinWait2 TCPACKSkippedTimeWait TCPACKSkippedChallenge "
    "TCPWinProbe TCPKeepAlive TCPMTUPFail TCPMTUPSuccess TCPDelivered TCPDeliveredCE TCPAckCompressed "
    "TCPZeroWindowDrop TCPRcvQDrop TCPWqueueTooBig")
_IP_EXT = (
    "InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets "
    "InMcastOctets OutMcastOctets InBcastOctets OutBcastOctets InCsumErrors InNoECTPkts InECT1Pkts InECT0Pkts "
    "InCEPkts ReasmOverlaps")


@notrace
def _zero(names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), 0)


@notrace
def _ip_counters() -> dict[str, int]:
    return _zero(_IP)


@notrace
def _icmp_counters() -> dict[str, int]:
    return _zero(_ICMP)


@notrace
def _tcp_counters() -> dict[str, int]:
    return _zero(_TCP) | {"RtoAlgorithm": 1, "RtoMin": 200, "RtoMax": 120000, "MaxConn": -1}


@notrace
def _udp_counters() -> dict[str, int]:
    return _zero(_UDP)


@notrace
def _tcp_ext_counters() -> dict[str, int]:
    return _zero(_TCP_EXT)


@notrace
def _ip_ext_counters() -> dict[str, int]:
    return _zero(_IP_EXT)


@slotted
class NetnsMib:
    """struct netns_mib: net.mib. net: the TcpExt counters (LINUX_MIB_*), ip_ext: IpExt. icmpmsg: by "InType8"."""

    ip: dict[str, int] = field(default_factory=_ip_counters)
    icmp: dict[str, int] = field(default_factory=_icmp_counters)
    icmpmsg: dict[str, int] = field(default_factory=dict)
    tcp: dict[str, int] = field(default_factory=_tcp_counters)
    udp: dict[str, int] = field(default_factory=_udp_counters)
    udplite: dict[str, int] = field(default_factory=_udp_counters)
    net: dict[str, int] = field(default_factory=_tcp_ext_counters)
    ip_ext: dict[str, int] = field(default_factory=_ip_ext_counters)


@notrace
def ipv4_mib_init_net(net: Net) -> None:
    net.mib = NetnsMib()


# ---- ICMP's types (net/ipv4/icmp.c) -------------------------------------------------------------------------------
_ICMP_NAMES = {0: "EchoReps", 3: "DestUnreachs", 4: "SrcQuenchs", 5: "Redirects", 8: "Echos", 11: "TimeExcds",
               12: "ParmProbs", 13: "Timestamps", 14: "TimestampReps", 17: "AddrMasks", 18: "AddrMaskReps"}


def icmp_out_count(net: Net, kind: int) -> None:
    """A message of this ICMP type left."""
    net.mib.icmp["OutMsgs"] += 1
    _count_type(net, "Out", kind)


@notrace
def icmp_in_count(net: Net, kind: int) -> None:
    """ICMPMSGIN_INC_STATS()"""
    _count_type(net, "In", kind)


@notrace
def _count_type(net: Net, direction: str, kind: int) -> None:
    name = _ICMP_NAMES.get(kind)
    if name is not None:
        net.mib.icmp[direction + name] += 1
    messages = net.mib.icmpmsg
    key = f"{direction}Type{kind}"
    messages[key] = messages.get(key, 0) + 1
