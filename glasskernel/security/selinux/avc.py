"""The access vector cache: answers of the security server, and the records of what was denied.

Linux: security/selinux/avc.c (5.3). Same: 512 slots, at most cache_threshold answers (then 16 go, round robin),
    numbers of policies, what is audited, the text of records. Differs: a slot is a dict in the order of insertion; an
    answer is replaced, not changed, when permissive mode grants (as RCU wants it in Linux too).
Owns: SelinuxState.avc. Invariant: every answer in the cache has seqno >= latest_notif.
Context: any (softirqs ask for sockets). Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.kernel.audit import AuditBuffer, audit_log_format, audit_log_untrustedstring
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EACCES, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_NONE, CommonAuditData, common_lsm_audit
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.ss.services import (
    security_compute_av,
    security_compute_xperms_decision,
    security_sid_to_context,
    security_sid_to_context_inval,
)
from glasskernel.security.selinux.types import AVD_FLAGS_PERMISSIVE, AvDecision, ExtendedPermsDecision

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.types import SelinuxState

AVC_CACHE_SLOTS, AVC_DEF_CACHE_THRESHOLD, AVC_CACHE_RECLAIM = 512, 512, 16
_KERN_WARNING = 4
_CLASSES = tuple(secclass_map.items())

Key = tuple[int, int, int]                         # source, target, class


@slotted
class AvcNode:
    """struct avc_node. xperms: of each ioctl driver that was asked for."""

    avd: AvDecision
    xperms: dict[int, ExtendedPermsDecision] = field(default_factory=dict)


@slotted
class AvcCacheStats:
    """struct avc_cache_stats: of one CPU."""

    lookups: int = 0
    misses: int = 0
    allocations: int = 0
    reclaims: int = 0
    frees: int = 0


class HashStats(NamedTuple):
    """What /sys/fs/selinux/avc/hash_stats shows."""

    entries: int
    slots_used: int
    longest_chain: int


@slotted
class SelinuxAvc:
    """struct selinux_avc and its avc_cache."""

    stats: list[AvcCacheStats]
    avc_cache_threshold: int = AVC_DEF_CACHE_THRESHOLD
    slots: list[dict[Key, AvcNode]] = field(default_factory=lambda: [{} for _ in range(AVC_CACHE_SLOTS)])
    lru_hint: int = 0
    active_nodes: int = 0
    latest_notif: int = 0


@notrace
def selinux_avc_init(kernel: Kernel) -> SelinuxAvc:
    """An empty cache."""
    return SelinuxAvc([AvcCacheStats() for _ in kernel.machine.cpus])


@notrace
def avc_hash(ssid: int, tsid: int, tclass: int) -> int:
    return (ssid ^ tsid << 2 ^ tclass << 4) & AVC_CACHE_SLOTS - 1


@notrace
def this_cpu_stats(avc: SelinuxAvc) -> AvcCacheStats:
    return avc.stats[register.task.cpu]


# ---- the cache ---------------------------------------------------------------------------------------------
def avc_lookup(avc: SelinuxAvc, ssid: int, tsid: int, tclass: int) -> AvcNode | None:
    """A cached answer."""
    stats = avc.stats[register.task.cpu]
    stats.lookups += 1
    node = avc.slots[(ssid ^ tsid << 2 ^ tclass << 4) & 511].get((ssid, tsid, tclass))
    if node is None:
        stats.misses += 1
    return node


def avc_compute_av(state: SelinuxState, ssid: int, tsid: int, tclass: int) -> AvcNode:
    """Asks the security server and caches what it says."""
    return avc_insert(state, ssid, tsid, tclass, AvcNode(security_compute_av(state, ssid, tsid, tclass)))


def avc_insert(state: SelinuxState, ssid: int, tsid: int, tclass: int, node: AvcNode) -> AvcNode:
    """Caches an answer, unless a newer policy has come meanwhile."""
    avc: SelinuxAvc = state.avc
    if avc_latest_notif_update(state, node.avd.seqno, True):
        slot = avc.slots[avc_hash(ssid, tsid, tclass)]
        key = (ssid, tsid, tclass)
        if key not in slot:
            avc_alloc_node(avc)
        slot[key] = node
    return node


def avc_alloc_node(avc: SelinuxAvc) -> None:
    """Counts one answer more; too many, and some go."""
    this_cpu_stats(avc).allocations += 1
    avc.active_nodes += 1
    if avc.active_nodes > avc.avc_cache_threshold:
        avc_reclaim_node(avc)


def avc_reclaim_node(avc: SelinuxAvc) -> int:
    """Drops the oldest answers of the next slots. Answers how many."""
    reclaimed = 0
    for _ in range(AVC_CACHE_SLOTS):
        avc.lru_hint += 1
        slot = avc.slots[avc.lru_hint & AVC_CACHE_SLOTS - 1]
        while slot:
            del slot[next(iter(slot))]
            avc_node_delete(avc)
            this_cpu_stats(avc).reclaims += 1
            reclaimed += 1
            if reclaimed >= AVC_CACHE_RECLAIM:
                return reclaimed
    return reclaimed


def avc_node_delete(avc: SelinuxAvc) -> None:
    """One answer less."""
    this_cpu_stats(avc).frees += 1
    avc.active_nodes -= 1


def avc_latest_notif_update(state: SelinuxState, seqno: int, is_insert: bool) -> bool:
    """Notes the newest policy's number. False: the answer to be cached is from an older one."""
    avc: SelinuxAvc = state.avc
    if is_insert and seqno < avc.latest_notif:
        state.kernel.printk(f"SELinux: avc:  seqno {seqno} < latest_notif {avc.latest_notif}", _KERN_WARNING)
        return False
    avc.latest_notif = max(avc.latest_notif, seqno)
    return True


def avc_flush(avc: SelinuxAvc) -> None:
    """Forgets everything."""
    for slot in avc.slots:
        for _ in range(len(slot)):
            avc_node_delete(avc)
        slot.clear()


def avc_ss_reset(state: SelinuxState, seqno: int) -> None:
    """A policy was loaded, or a boolean changed: nothing that is cached holds any more."""
    avc_flush(state.avc)
    avc_latest_notif_update(state, seqno, False)


def avc_policy_seqno(state: SelinuxState) -> int:
    """The number of the policy that answers: grows with each load."""
    seqno: int = state.avc.latest_notif
    return seqno


def avc_get_hash_stats(avc: SelinuxAvc) -> HashStats:
    """How well the hash spreads."""
    lengths = [len(slot) for slot in avc.slots]
    return HashStats(avc.active_nodes, sum(1 for length in lengths if length), max(lengths))


# ---- asking ------------------------------------------------------------------------------------------------
def avc_has_perm_noaudit(state: SelinuxState, ssid: int, tsid: int, tclass: int,
                         requested: int) -> tuple[AvDecision, bool]:
    """(what the policy says, was it refused?). Permissive mode refuses nothing."""
    node = avc_lookup(state.avc, ssid, tsid, tclass)
    if node is None:
        node = avc_compute_av(state, ssid, tsid, tclass)
    avd = node.avd
    refused = bool(requested & ~avd[0]) and avc_denied(state, ssid, tsid, tclass, requested, avd)
    return avd, refused


def avc_denied(state: SelinuxState, ssid: int, tsid: int, tclass: int, requested: int, avd: AvDecision) -> bool:
    """Is it refused? If not (permissive), the answer in the cache is widened, so that it is recorded only once."""
    if state.enforcing and not avd.flags & AVD_FLAGS_PERMISSIVE:
        return True
    avc_update_node(state, ssid, tsid, tclass, requested, avd.seqno)
    return False


def avc_update_node(state: SelinuxState, ssid: int, tsid: int, tclass: int, perms: int, seqno: int) -> None:
    """AVC_CALLBACK_GRANT: the cached answer allows `perms` too."""
    avc: SelinuxAvc = state.avc
    slot = avc.slots[avc_hash(ssid, tsid, tclass)]
    node = slot.get((ssid, tsid, tclass))
    if node is not None and node.avd.seqno == seqno:
        slot[(ssid, tsid, tclass)] = AvcNode(node.avd._replace(allowed=node.avd.allowed | perms), node.xperms)


def avc_has_perm(state: SelinuxState, ssid: int, tsid: int, tclass: int, requested: int,
                 auditdata: CommonAuditData | None = None) -> None:
    """May ssid do all of `requested` to tsid? Records what the policy wants recorded. Raises EACCES."""
    avd, refused = avc_has_perm_noaudit(state, ssid, tsid, tclass, requested)
    if refused or avd[1] or requested & ~avd[0]:
        avc_audit(state, ssid, tsid, tclass, requested, avd, refused, auditdata)
        if refused:
            raise KernelError(EACCES)


@notrace
def avc_audit_required(requested: int, avd: AvDecision, refused: bool, auditdeny: int) -> tuple[int, int]:
    """(what to record, what was denied). auditdeny: of denials, record these only; 0: as the policy says."""
    denied = requested & ~avd.allowed
    if denied:
        audited = denied & avd.auditdeny
        if auditdeny and not auditdeny & avd.auditdeny:
            audited = 0
    elif refused:
        audited = denied = requested
    else:
        audited = requested & avd.auditallow
    return audited, denied


@notrace
def avc_audit(state: SelinuxState, ssid: int, tsid: int, tclass: int, requested: int, avd: AvDecision, refused: bool,
              auditdata: CommonAuditData | None) -> None:
    """Records an answer of avc_has_perm_noaudit(), if it is to be recorded."""
    audited, denied = avc_audit_required(requested, avd, refused, 0)
    if audited:
        slow_avc_audit(state, ssid, tsid, tclass, audited, denied, refused, auditdata)


def slow_avc_audit(state: SelinuxState, ssid: int, tsid: int, tclass: int, audited: int, denied: int, refused: bool,
                   auditdata: CommonAuditData | None) -> None:
    """Writes a record: `avc:  denied  { read } for ... tclass=file permissive=0`."""

    @notrace
    def avc_audit_pre_callback(ab: AuditBuffer) -> None:
        audit_log_format(ab, b"avc:  %s " % (b"denied" if denied else b"granted"))
        avc_dump_av(ab, tclass, audited)
        audit_log_format(ab, b" for ")

    @notrace
    def avc_audit_post_callback(ab: AuditBuffer) -> None:
        for name, sid in ((b"scontext", ssid), (b"tcontext", tsid)):
            try:
                audit_log_format(ab, b" %s=%s" % (name, security_sid_to_context(state, sid)))
            except KernelError:
                audit_log_format(ab, b" %s=%d" % (name[:1] + b"sid", sid))
        audit_log_format(ab, b" tclass=%s" % _CLASSES[tclass - 1][0].encode())
        if denied:
            audit_log_format(ab, b" permissive=%d" % (not refused))
        for name, sid in ((b"srawcon", ssid), (b"trawcon", tsid)):
            context = security_sid_to_context_inval(state, sid)
            if context is not None:
                audit_log_format(ab, b" %s=" % name)
                audit_log_untrustedstring(ab, context)

    common_lsm_audit(auditdata if auditdata is not None else CommonAuditData(LSM_AUDIT_DATA_NONE),
                     avc_audit_pre_callback, avc_audit_post_callback)


def avc_dump_av(ab: AuditBuffer, tclass: int, av: int) -> None:
    """The names of permissions: { read open }"""
    if not av:
        audit_log_format(ab, b" null")
        return
    audit_log_format(ab, b" {")
    for bit, name in enumerate(_CLASSES[tclass - 1][1]):
        if av & 1 << bit:
            audit_log_format(ab, b" " + name.encode())
            av &= ~(1 << bit)
    if av:
        audit_log_format(ab, b" 0x%x" % av)
    audit_log_format(ab, b" }")


# ---- ioctl numbers -----------------------------------------------------------------------------------------
def avc_has_extended_perms(state: SelinuxState, ssid: int, tsid: int, tclass: int, requested: int, driver: int,
                           xperm: int, auditdata: CommonAuditData) -> None:
    """avc_has_perm() for one ioctl number: driver is its type byte, xperm the number. Raises EACCES.

    A policy that lists numbers for this source, target and class allows only those; one that does not, all of them.
    """
    node = avc_lookup(state.avc, ssid, tsid, tclass)
    if node is None:
        node = avc_compute_av(state, ssid, tsid, tclass)
    avd = node.avd
    xpd = node.xperms.get(driver)
    if xpd is None:
        xpd = security_compute_xperms_decision(state, ssid, tsid, tclass, driver)
        node.xperms[driver] = xpd
    bit = 1 << xperm
    allowed = avd.allowed if xpd.allowed & bit else avd.allowed & ~requested
    denied = requested & ~allowed
    refused = bool(denied) and avc_denied(state, ssid, tsid, tclass, requested, avd)
    if denied and not refused:
        node.xperms[driver] = xpd._replace(allowed=xpd.allowed | bit)      # permissive: recorded once
    if denied:
        audited = denied & avd.auditdeny if not xpd.dontaudit & bit else 0
    else:
        audited = requested & avd.auditallow if xpd.auditallow & bit else 0
    if audited:
        slow_avc_audit(state, ssid, tsid, tclass, audited, denied, refused, auditdata)
    if refused:
        raise KernelError(EACCES)
