"""Neighbours: which hardware address has the next hop, and does it still answer?

Linux: net/core/neighbour.c, include/net/neighbour.h (5.3). Same: the states and their timers, unicast probes before
broadcast ones, packets that wait for an answer, garbage collection, parameters for each device. Differs: the hash is a
dict by (device, key); times in parameters are jiffies; listeners of rtnetlink hear through InetState.neigh_notify.
Owns: NeighTable.  Gaps: proxies delay nothing, app_solicit (arpd), statistics per CPU (one set), external entries.
Invariants: a neighbour is in tbl.nht until it is dead; whoever keeps one holds a reference, so does its timer.
Context: any; nothing sleeps.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timer import del_timer, mod_timer
from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.kernel.workqueue import DelayedWork, queue_delayed_work
from glasskernel.lib.errno import EINVAL, ENETDOWN, ENOBUFS, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev import dev_queue_xmit
from glasskernel.net.netdevice import ETH_HLEN, dev_hard_header, dev_hold, dev_put
from glasskernel.net.skbuff import SkBuff, kfree_skb

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

NUD_INCOMPLETE, NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_FAILED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NUD_NOARP, NUD_PERMANENT, NUD_NONE = 0x40, 0x80, 0
NUD_IN_TIMER = NUD_INCOMPLETE | NUD_REACHABLE | NUD_DELAY | NUD_PROBE
NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY
NUD_CONNECTED = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE
NTF_PROXY, NTF_ROUTER, NTF_EXT_LEARNED = 0x08, 0x80, 0x10
NEIGH_UPDATE_F_OVERRIDE, NEIGH_UPDATE_F_WEAK_OVERRIDE, NEIGH_UPDATE_F_ADMIN = 1, 2, 0x80000000
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
NEIGH_STATS = ("allocs", "destroys", "hash_grows", "res_failed", "lookups", "hits", "rcv_probes_mcast",
               "rcv_probes_ucast", "periodic_gc_runs", "forced_gc_runs", "unres_discards", "table_fulls")


@slotted(frozen=True)
class NeighOps:
    """struct neigh_ops. solicit(neigh, skb) asks; output when the address may be old, connected_output when not."""

    solicit: Callable[[Neighbour, SkBuff | None], None]
    error_report: Callable[[Neighbour, SkBuff], None]
    output: Callable[[Neighbour, SkBuff], int]
    connected_output: Callable[[Neighbour, SkBuff], int]


@slotted
class NeighParms:
    """struct neigh_parms: by the names of /proc/sys/net/ipv4/neigh/DEV; times in jiffies. dev None: the defaults."""

    tbl: NeighTable
    dev: NetDevice | None
    net: Net | None
    data: dict[str, int]
    reachable_time: int = 0
    dead: bool = False


@slotted
class NeighTable:
    """struct neigh_table. nht: (ifindex, key) of a namespace -> Neighbour; phash: proxied addresses.

    constructor(neigh) chooses state and ops. key_len in bytes.
    """

    family: int
    key_len: int
    protocol: int
    id: bytes
    constructor: Callable[[Neighbour], None]
    parms: NeighParms = None  # type: ignore[assignment]
    parms_list: list[NeighParms] = field(default_factory=list)
    gc_interval: int = 30 * HZ
    gc_thresh1: int = 128
    gc_thresh2: int = 512
    gc_thresh3: int = 1024
    last_flush: int = 0
    last_rand: int = 0
    entries: int = 0
    nht: dict[tuple[Any, Any], Neighbour] = field(default_factory=dict)
    phash: dict[tuple[Any, Any], int] = field(default_factory=dict)
    gc_work: DelayedWork = None  # type: ignore[assignment]
    stats: dict[str, int] = field(default_factory=dict)


@slotted
class Neighbour:
    """struct neighbour. ha: the hardware address; primary_key: the protocol's (IPv4: int). Stamps in jiffies."""

    tbl: NeighTable
    dev: NetDevice
    parms: NeighParms
    primary_key: Any
    refcnt: int = 1
    nud_state: int = NUD_NONE
    type: int = 0                        # RTN_*
    flags: int = 0                       # NTF_*
    dead: bool = True
    ha: bytes = bytes(6)
    confirmed: int = 0
    updated: int = 0
    used: int = 0
    probes: int = 0
    arp_queue: deque[SkBuff] = field(default_factory=deque)
    arp_queue_len_bytes: int = 0
    timer: TimerList = None  # type: ignore[assignment]
    output: Callable[[Neighbour, SkBuff], int] = None  # type: ignore[assignment]
    ops: NeighOps = None  # type: ignore[assignment]


@notrace
def _now() -> int:
    return register.task.kernel.time.jiffies


@notrace
def neigh_release(neigh: Neighbour) -> None:
    neigh.refcnt -= 1
    if not neigh.refcnt:
        neigh_destroy(neigh)


# ---- tables and parameters ----------------------------------------------------------------------------------------
def neigh_table_init(tbl: NeighTable, data: dict[str, int]) -> None:
    """Starts a table whose default parameters are `data`."""
    tbl.parms = NeighParms(tbl, None, None, data, neigh_rand_reach_time(data["base_reachable_time"]))
    tbl.parms_list.append(tbl.parms)
    tbl.stats = dict.fromkeys(NEIGH_STATS, 0)
    tbl.last_flush = tbl.last_rand = _now()
    tbl.gc_work = DelayedWork(neigh_periodic_work, tbl, deferrable=True)


def neigh_rand_reach_time(base: int) -> int:
    """Between half and one and a half of base, so that not all neighbours are probed at once."""
    if not base:
        return 0
    return int.from_bytes(register.task.kernel.machine.random_bytes(4), "little") % base + (base >> 1)


def neigh_parms_alloc(dev: NetDevice, tbl: NeighTable) -> NeighParms:
    """A device's own parameters, copied from the defaults."""
    data = dict(tbl.parms.data)
    parms = NeighParms(tbl, dev, dev.net, data, neigh_rand_reach_time(data["base_reachable_time"]))
    dev_hold(dev)
    tbl.parms_list.append(parms)
    return parms


def neigh_parms_release(tbl: NeighTable, parms: NeighParms) -> None:
    tbl.parms_list.remove(parms)
    parms.dead = True
    if parms.dev is not None:
        dev_put(parms.dev)


# ---- finding and making -------------------------------------------------------------------------------------------
@notrace
def __neigh_lookup_noref(tbl: NeighTable, pkey: Any, dev: NetDevice) -> Neighbour | None:
    return tbl.nht.get((dev, pkey))


def neigh_lookup(tbl: NeighTable, pkey: Any, dev: NetDevice) -> Neighbour | None:
    """The neighbour with a reference, if it is known."""
    tbl.stats["lookups"] += 1
    n = tbl.nht.get((dev, pkey))
    if n is not None:
        tbl.stats["hits"] += 1
        n.refcnt += 1
    return n


def neigh_alloc(tbl: NeighTable, dev: NetDevice, pkey: Any) -> Neighbour:
    """Raises ENOBUFS if the table is full and nothing can be thrown away."""
    now = _now()
    if tbl.entries >= tbl.gc_thresh3 or (tbl.entries >= tbl.gc_thresh2 and now > tbl.last_flush + 5 * HZ):
        freed = neigh_forced_gc(tbl)
        if not freed and tbl.entries >= tbl.gc_thresh3:
            tbl.stats["table_fulls"] += 1
            raise KernelError(ENOBUFS)
    n = Neighbour(tbl, dev, tbl.parms, pkey, updated=now, used=now)
    n.output = neigh_blackhole
    n.timer = TimerList(neigh_timer_handler, n)
    tbl.entries += 1
    tbl.stats["allocs"] += 1
    return n


def __neigh_create(tbl: NeighTable, pkey: Any, dev: NetDevice, want_ref: bool) -> Neighbour:
    """A new neighbour, in the table. Raises what the constructor raises, ENOBUFS."""
    n = neigh_alloc(tbl, dev, pkey)
    dev_hold(dev)
    if dev.ip_ptr is not None and dev.ip_ptr.arp_parms is not None:
        n.parms = dev.ip_ptr.arp_parms
    try:
        tbl.constructor(n)
    except KernelError:
        n.refcnt = 0
        neigh_destroy(n)
        raise
    n.confirmed = _now() - (n.parms.data["base_reachable_time"] << 1)
    known = tbl.nht.get((dev, pkey))
    if known is not None:
        n.refcnt = 0
        n.dead = True
        neigh_destroy(n)
        n = known
    else:
        n.dead = False
        tbl.nht[dev, pkey] = n           # this reference is the table's
    if len(tbl.nht) == 1 and not tbl.gc_work.work.pending and tbl.gc_work.timer.base is None:
        _queue_gc(tbl)
    if want_ref:
        n.refcnt += 1
    return n


@notrace
def neigh_create(tbl: NeighTable, pkey: Any, dev: NetDevice) -> Neighbour:
    return __neigh_create(tbl, pkey, dev, True)


def neigh_destroy(neigh: Neighbour) -> None:
    """Nobody refers to it any more. Context: any."""
    neigh.tbl.stats["destroys"] += 1
    assert neigh.dead
    _purge_queue(neigh)
    dev_put(neigh.dev)
    neigh.tbl.entries -= 1


@notrace
def _purge_queue(neigh: Neighbour) -> None:
    while neigh.arp_queue:
        kfree_skb(neigh.arp_queue.popleft())
    neigh.arp_queue_len_bytes = 0


def neigh_mark_dead(n: Neighbour) -> None:
    """It is in the table no longer."""
    n.dead = True


@notrace
def _unlink(n: Neighbour) -> None:
    tbl = n.tbl
    if tbl.nht.get((n.dev, n.primary_key)) is n:
        del tbl.nht[n.dev, n.primary_key]


def neigh_cleanup_and_release(neigh: Neighbour) -> None:
    if neigh.tbl.parms is not None:
        _notify(neigh, RTM_DELNEIGH)
    neigh_release(neigh)


def neigh_remove_one(ndel: Neighbour) -> bool:
    """Takes a neighbour that only the table holds out of it; True: it is gone."""
    if ndel.refcnt != 1 or ndel.tbl.nht.get((ndel.dev, ndel.primary_key)) is not ndel:
        return False
    _unlink(ndel)
    neigh_mark_dead(ndel)
    neigh_del_timer(ndel)
    neigh_cleanup_and_release(ndel)
    return True


@notrace
def _notify(neigh: Neighbour, event: int) -> None:
    inet = register.task.kernel.inet
    if inet is not None and inet.neigh_notify is not None:
        inet.neigh_notify(neigh, event)


# ---- garbage ------------------------------------------------------------------------------------------------------
@notrace
def _queue_gc(tbl: NeighTable) -> None:
    kernel = register.task.kernel
    queue_delayed_work(kernel.workqueues.system_power_efficient_wq, tbl.gc_work,
                       tbl.parms.data["base_reachable_time"] >> 1)


def neigh_periodic_work(work: Any) -> None:
    """Frees what failed or was not used for gc_stale_time; draws new reachable times every five minutes."""
    tbl: NeighTable = work.data
    tbl.stats["periodic_gc_runs"] += 1
    now = _now()
    if now > tbl.last_rand + 300 * HZ:
        tbl.last_rand = now
        for p in tbl.parms_list:
            p.reachable_time = neigh_rand_reach_time(p.data["base_reachable_time"])
    if tbl.entries >= tbl.gc_thresh1:
        for n in list(tbl.nht.values()):
            if n.nud_state & (NUD_PERMANENT | NUD_IN_TIMER) or n.flags & NTF_EXT_LEARNED:
                continue
            n.used = max(n.used, n.confirmed)
            if n.refcnt == 1 and (n.nud_state == NUD_FAILED or now > n.used + n.parms.data["gc_stale_time"]):
                _unlink(n)
                neigh_mark_dead(n)
                neigh_cleanup_and_release(n)
    if tbl.nht:
        _queue_gc(tbl)


def neigh_forced_gc(tbl: NeighTable) -> int:
    """Makes room, oldest first; how many went."""
    tbl.stats["forced_gc_runs"] += 1
    max_clean = tbl.entries - tbl.gc_thresh2
    tref = _now() - 5 * HZ
    shrunk = 0
    for n in list(tbl.nht.values()):
        if n.refcnt == 1 and not n.nud_state & NUD_PERMANENT and (n.nud_state == NUD_FAILED or tref > n.updated):
            shrunk += neigh_remove_one(n)
            if shrunk >= max_clean:
                break
    tbl.last_flush = _now()
    return shrunk


def neigh_flush_dev(tbl: NeighTable, dev: NetDevice | None, skip_perm: bool) -> None:
    """Forgets the neighbours of a device (None: of all)."""
    for n in list(tbl.nht.values()):
        if (dev is not None and n.dev is not dev) or (skip_perm and n.nud_state & NUD_PERMANENT):
            continue
        _unlink(n)
        neigh_del_timer(n)
        neigh_mark_dead(n)
        if n.refcnt != 1:                # somebody still sends through it: what he sends is dropped
            _purge_queue(n)
            n.output = neigh_blackhole
            n.nud_state = NUD_NOARP if n.nud_state & NUD_VALID else NUD_NONE
        neigh_cleanup_and_release(n)


def neigh_changeaddr(tbl: NeighTable, dev: NetDevice) -> None:
    """The device's own address changed: what was learned is worth nothing."""
    neigh_flush_dev(tbl, dev, False)


def neigh_ifdown(tbl: NeighTable, dev: NetDevice) -> None:
    __neigh_ifdown(tbl, dev, False)


def neigh_carrier_down(tbl: NeighTable, dev: NetDevice) -> None:
    __neigh_ifdown(tbl, dev, True)


def __neigh_ifdown(tbl: NeighTable, dev: NetDevice, skip_perm: bool) -> None:
    neigh_flush_dev(tbl, dev, skip_perm)
    pneigh_ifdown(tbl, dev)


# ---- proxies ------------------------------------------------------------------------------------------------------
def pneigh_lookup(tbl: NeighTable, net: Net, pkey: Any, dev: NetDevice | None, creat: bool) -> bool:
    """Do we answer for this address on this device (None: on all)? creat: from now on, yes."""
    if (dev, pkey) in tbl.phash or (net, pkey) in tbl.phash:
        return True
    if creat:
        tbl.phash[dev if dev is not None else net, pkey] = NTF_PROXY
    return creat


def pneigh_delete(tbl: NeighTable, net: Net, pkey: Any, dev: NetDevice | None) -> bool:
    """False: there was none."""
    return tbl.phash.pop((dev if dev is not None else net, pkey), None) is not None


def pneigh_ifdown(tbl: NeighTable, dev: NetDevice) -> None:
    for key in [key for key in tbl.phash if key[0] is dev]:
        del tbl.phash[key]


# ---- states -------------------------------------------------------------------------------------------------------
def neigh_suspect(neigh: Neighbour) -> None:
    """The address may be old: packets go on, but the state is looked at."""
    neigh.output = neigh.ops.output


def neigh_connect(neigh: Neighbour) -> None:
    """The address is known to be right."""
    neigh.output = neigh.ops.connected_output


def neigh_add_timer(n: Neighbour, when: int) -> None:
    n.refcnt += 1
    mod_timer(n.timer, when)


def neigh_del_timer(n: Neighbour) -> bool:
    """True if it was armed."""
    if n.nud_state & NUD_IN_TIMER and del_timer(n.timer):
        n.refcnt -= 1                    # never the last: the table's or the caller's is there
        return True
    return False


def neigh_max_probes(n: Neighbour) -> int:
    data = n.parms.data
    if n.nud_state & NUD_PROBE:
        return data["ucast_solicit"] + data["app_solicit"] + data["mcast_resolicit"]
    return data["ucast_solicit"] + data["app_solicit"] + data["mcast_solicit"]


def neigh_invalidate(neigh: Neighbour) -> None:
    """No answer: whoever sent the waiting packets is told."""
    neigh.tbl.stats["res_failed"] += 1
    neigh.updated = _now()
    while neigh.nud_state == NUD_FAILED and neigh.arp_queue:
        neigh.ops.error_report(neigh, neigh.arp_queue.popleft())
    _purge_queue(neigh)


def neigh_probe(neigh: Neighbour) -> None:
    """Asks once more, on behalf of the packet that waits longest."""
    skb = neigh.arp_queue[-1] if neigh.arp_queue else None
    neigh.probes += 1
    neigh.ops.solicit(neigh, skb)


def neigh_timer_handler(timer: TimerList) -> None:
    """The time of a state is over. Context: softirq."""
    neigh: Neighbour = timer.data
    state, now, data = neigh.nud_state, _now(), neigh.parms.data
    then = now + HZ
    notify = False
    if state & NUD_IN_TIMER:
        if state & NUD_REACHABLE:
            if now <= neigh.confirmed + neigh.parms.reachable_time:
                then = neigh.confirmed + neigh.parms.reachable_time
            elif now <= neigh.used + data["delay_first_probe_time"]:
                neigh.nud_state = NUD_DELAY
                neigh.updated = now
                neigh_suspect(neigh)
                then = now + data["delay_first_probe_time"]
            else:
                neigh.nud_state = NUD_STALE
                neigh.updated = now
                neigh_suspect(neigh)
                notify = True
        elif state & NUD_DELAY:
            if now <= neigh.confirmed + data["delay_first_probe_time"]:
                neigh.nud_state = NUD_REACHABLE
                neigh.updated = now
                neigh_connect(neigh)
                then = neigh.confirmed + neigh.parms.reachable_time
            else:
                neigh.nud_state = NUD_PROBE
                neigh.updated = now
                neigh.probes = 0
                then = now + max(data["retrans_time"], HZ // 100)
            notify = True
        else:                            # PROBE, INCOMPLETE
            then = now + max(data["retrans_time"], HZ // 100)
        if neigh.nud_state & (NUD_INCOMPLETE | NUD_PROBE) and neigh.probes >= neigh_max_probes(neigh):
            neigh.nud_state = NUD_FAILED
            notify = True
            neigh_invalidate(neigh)
        elif neigh.nud_state & NUD_IN_TIMER:
            neigh.refcnt += not mod_timer(neigh.timer, max(then, now + HZ // 100))
            if neigh.nud_state & (NUD_INCOMPLETE | NUD_PROBE):
                neigh_probe(neigh)
    if notify:
        neigh_update_notify(neigh)
    neigh_release(neigh)


def neigh_update_notify(neigh: Neighbour) -> None:
    _notify(neigh, RTM_NEWNEIGH)


def __neigh_event_send(neigh: Neighbour, skb: SkBuff | None) -> int:
    """A packet wants to go: 0 if it may, 1 if it was taken (it waits for the answer, or was dropped)."""
    if neigh.nud_state & (NUD_CONNECTED | NUD_DELAY | NUD_PROBE):
        return 0
    if neigh.dead:
        if not neigh.nud_state & NUD_STALE and skb is not None:
            kfree_skb(skb)
        return 0 if neigh.nud_state & NUD_STALE else 1
    now, data = _now(), neigh.parms.data
    immediate_probe = False
    if not neigh.nud_state & (NUD_STALE | NUD_INCOMPLETE):
        if not data["mcast_solicit"] + data["app_solicit"]:
            neigh.nud_state = NUD_FAILED
            neigh.updated = now
            if skb is not None:
                kfree_skb(skb)
            return 1
        neigh.probes = data["ucast_solicit"]
        neigh_del_timer(neigh)
        neigh.nud_state = NUD_INCOMPLETE
        neigh.updated = now
        neigh_add_timer(neigh, now + max(data["retrans_time"], HZ // 2))
        immediate_probe = True
    elif neigh.nud_state & NUD_STALE:
        neigh_del_timer(neigh)
        neigh.nud_state = NUD_DELAY
        neigh.updated = now
        neigh_add_timer(neigh, now + data["delay_first_probe_time"])
    if not neigh.nud_state & NUD_INCOMPLETE:
        return 0
    if skb is not None:
        while neigh.arp_queue and neigh.arp_queue_len_bytes + skb.truesize > data["unres_qlen_bytes"]:
            old = neigh.arp_queue.popleft()
            neigh.arp_queue_len_bytes -= old.truesize
            kfree_skb(old)
            neigh.tbl.stats["unres_discards"] += 1
        neigh.arp_queue.append(skb)
        neigh.arp_queue_len_bytes += skb.truesize
    if immediate_probe:
        neigh_probe(neigh)
    return 1


@notrace
def neigh_event_send(neigh: Neighbour, skb: SkBuff | None) -> int:
    neigh.used = _now()
    if not neigh.nud_state & (NUD_CONNECTED | NUD_DELAY | NUD_PROBE):
        return __neigh_event_send(neigh, skb)
    return 0


def neigh_update(neigh: Neighbour, lladdr: bytes | None, new: int, flags: int) -> None:
    """What was heard about a neighbour: its address and the state that follows. Raises EPERM, EINVAL."""
    dev, old = neigh.dev, neigh.nud_state
    if not flags & NEIGH_UPDATE_F_ADMIN and old & (NUD_NOARP | NUD_PERMANENT):
        raise KernelError(EPERM)
    if neigh.dead:
        raise KernelError(EINVAL)
    if not new & NUD_VALID:
        neigh_del_timer(neigh)
        if old & NUD_CONNECTED:
            neigh_suspect(neigh)
        neigh.nud_state = new
        notify = bool(old & NUD_VALID)
        if old & (NUD_INCOMPLETE | NUD_PROBE) and new & NUD_FAILED:
            neigh_invalidate(neigh)
            notify = True
        if notify:
            neigh_update_notify(neigh)
        return
    if not dev.addr_len or (lladdr is not None and old & NUD_VALID and lladdr == neigh.ha):
        lladdr = neigh.ha
    elif lladdr is None:
        if not old & NUD_VALID:
            raise KernelError(EINVAL)
        lladdr = neigh.ha
    now = _now()
    if new & NUD_CONNECTED:
        neigh.confirmed = now
    if old & NUD_VALID:
        if lladdr != neigh.ha and not flags & NEIGH_UPDATE_F_OVERRIDE:
            if not (flags & NEIGH_UPDATE_F_WEAK_OVERRIDE and old & NUD_CONNECTED):
                return
            lladdr, new = neigh.ha, NUD_STALE
        elif lladdr == neigh.ha and new == NUD_STALE and not flags & NEIGH_UPDATE_F_ADMIN:
            new = old
    if new != old or lladdr != neigh.ha:
        neigh.updated = now
    _enter(neigh, lladdr, old, new)


@notrace
def _enter(neigh: Neighbour, lladdr: bytes, old: int, new: int) -> None:
    """The second half of __neigh_update(): state, timer, address; then what waited goes."""
    now = _now()
    notify = False
    if new != old:
        neigh_del_timer(neigh)
        if new & NUD_PROBE:
            neigh.probes = 0
        if new & NUD_IN_TIMER:
            neigh_add_timer(neigh, now + (neigh.parms.reachable_time if new & NUD_REACHABLE else 0))
        neigh.nud_state = new
        notify = True
    if lladdr != neigh.ha:
        neigh.ha = lladdr
        if not new & NUD_CONNECTED:
            neigh.confirmed = now - (neigh.parms.data["base_reachable_time"] << 1)
        notify = True
    if new != old:
        if new & NUD_CONNECTED:
            neigh_connect(neigh)
        else:
            neigh_suspect(neigh)
        if not old & NUD_VALID:
            neigh.arp_queue_len_bytes = 0
            while neigh.nud_state & NUD_VALID and neigh.arp_queue:
                skb = neigh.arp_queue.popleft()
                neigh.output(neigh, skb)
            _purge_queue(neigh)
    if notify:
        neigh_update_notify(neigh)


def neigh_event_ns(tbl: NeighTable, lladdr: bytes | None, saddr: Any, dev: NetDevice) -> Neighbour | None:
    """Somebody asked us: his address is known now, if not more. With a reference."""
    neigh = neigh_lookup(tbl, saddr, dev)
    if neigh is None and (lladdr is not None or not dev.addr_len):
        neigh = neigh_create(tbl, saddr, dev)
    if neigh is not None:
        with suppress(KernelError):      # permanent: it stays what it is
            neigh_update(neigh, lladdr, NUD_STALE, NEIGH_UPDATE_F_OVERRIDE)
    return neigh


@notrace
def neigh_confirm(n: Neighbour) -> None:
    """Whoever sits above had an answer from there."""
    n.confirmed = _now()


# ---- sending ------------------------------------------------------------------------------------------------------
@notrace
def neigh_output(n: Neighbour, skb: SkBuff, skip_cache: bool = False) -> int:
    """On to the device: with the known header (neigh_hh_output()), or as the state wants it."""
    dev = n.dev
    if n.nud_state & NUD_CONNECTED and not skip_cache and dev.header_ops is not None:
        at = skb.data = skb.data - ETH_HLEN
        skb.len += ETH_HLEN
        skb.head[at : at + ETH_HLEN] = n.ha + dev.dev_addr + skb.protocol.to_bytes(2, "big")
        return dev_queue_xmit(skb)
    return n.output(n, skb)


@notrace
def _to_network_header(skb: SkBuff) -> None:
    """__skb_pull(skb, skb_network_offset(skb)): another device's header comes off."""
    offset = skb.network_header - skb.data
    skb.data += offset
    skb.len -= offset


def neigh_resolve_output(neigh: Neighbour, skb: SkBuff) -> int:
    """The slow way: looks at the state first."""
    if neigh_event_send(neigh, skb):
        return 0
    _to_network_header(skb)
    if dev_hard_header(skb, neigh.dev, skb.protocol, neigh.ha, None, skb.len) >= 0:
        return dev_queue_xmit(skb)
    kfree_skb(skb)
    return -EINVAL


def neigh_connected_output(neigh: Neighbour, skb: SkBuff) -> int:
    _to_network_header(skb)
    if dev_hard_header(skb, neigh.dev, skb.protocol, neigh.ha, None, skb.len) >= 0:
        return dev_queue_xmit(skb)
    kfree_skb(skb)
    return -EINVAL


def neigh_direct_output(neigh: Neighbour, skb: SkBuff) -> int:
    """The device has no addresses."""
    return dev_queue_xmit(skb)


def neigh_blackhole(neigh: Neighbour, skb: SkBuff) -> int:
    kfree_skb(skb)
    return -ENETDOWN
