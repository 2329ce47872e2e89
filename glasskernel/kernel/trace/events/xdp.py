"""XDP: packets that it does not let through as usual.

Linux: include/trace/events/xdp.h (5.3). Gaps: xdp_bulk_tx, xdp_cpumap_*, xdp_devmap_xmit, mem_*: nothing raises them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.net.core.xdp import XDP_REDIRECT

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.net.netdevice import NetDevice

xdp = trace_system("xdp")
_ACTION = ('__print_symbolic(REC->act, { 0, "ABORTED" }, { 1, "DROP" }, { 2, "PASS" }, { 3, "TX" }, '
           '{ 4, "REDIRECT" }, { -1, ((void *)0) })')


@xdp.event(
    fields="int prog_id; u32 act; int ifindex",
    print_fmt=f'"prog_id=%d action=%s ifindex=%d", REC->prog_id, {_ACTION}, REC->ifindex',
)
def xdp_exception(dev: NetDevice, xdp: BpfProg, act: int) -> Values:
    return (xdp.id, act, dev.ifindex)


@xdp.event_class(
    fields="int prog_id; u32 act; int ifindex; int err; int to_ifindex; u32 map_id; int map_index",
    print_fmt=('"prog_id=%d action=%s ifindex=%d to_ifindex=%d err=%d", '
               f"REC->prog_id, {_ACTION}, REC->ifindex, REC->to_ifindex, REC->err"),
)
def xdp_redirect_template(dev: NetDevice, xdp: BpfProg, to_ifindex: int, err: int, map_id: int,
                          map_index: int) -> Values:
    return (xdp.id, XDP_REDIRECT, dev.ifindex, err, to_ifindex, map_id, map_index)


_MAP = ('"prog_id=%d action=%s ifindex=%d to_ifindex=%d err=%d map_id=%d map_index=%d", '
        f"REC->prog_id, {_ACTION}, REC->ifindex, REC->to_ifindex, REC->err, REC->map_id, REC->map_index")
xdp_redirect = xdp_redirect_template.define("xdp_redirect")
xdp_redirect_err = xdp_redirect_template.define("xdp_redirect_err")
xdp_redirect_map = xdp_redirect_template.define("xdp_redirect_map", print_fmt=_MAP)
xdp_redirect_map_err = xdp_redirect_template.define("xdp_redirect_map_err", print_fmt=_MAP)
