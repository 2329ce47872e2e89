"""Polled devices.

Linux: include/trace/events/napi.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NapiStruct

napi = trace_system("napi")


@napi.event(
    fields="struct napi_struct * napi; __data_loc char[] dev_name; int work; int budget",
    print_fmt=(
        '"napi poll on napi struct %p for device %s work %d budget %d", REC->napi, __get_str(dev_name), REC->work, '
        "REC->budget"),
)
def napi_poll(napi: NapiStruct, work: int, budget: int) -> Values:
    return (kaddr_of(napi), napi.dev.name if napi.dev is not None else b"(no_device)", work, budget)
