"""/proc/net/protocols: what each protocol can do.

Linux: net/core/sock.c (5.3), proto_seq_show(). Same: the columns, the newest protocol first. Differs: "sp" (sendpage)
is always n: what is spliced is copied.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net, proc_remove_net
from glasskernel.lib.types import notrace
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.proto import sock_prot_inuse_get
from glasskernel.net.types import PernetOperations, _no_backlog_rcv, no_close

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, NetState, Proto

_METHODS = ("connect", "disconnect", "accept", "ioctl", "init", "destroy", "shutdown", "setsockopt", "getsockopt",
            "sendmsg", "recvmsg")
_TABLE_METHODS = ("hash", "unhash", "get_port", "enter_memory_pressure")


@notrace
def _yes(present: bool) -> str:
    return "y" if present else "n"


@notrace
def _yesno(true: bool) -> str:
    return "yes" if true else "no"


def proto_seq_printf(net: Net, state: NetState, proto: Proto) -> bytes:
    """One line."""
    memory = state.memory_allocated.get(proto.name, 0) if proto.memory_allocated else -1
    pressure = _yesno(state.memory_pressure.get(proto.name, False)) if proto.memory_pressure else "NI"
    columns = [_yes(proto.close is not no_close), *(_yes(getattr(proto, name) is not None) for name in _METHODS),
               "n", _yes(proto.bind is not None), _yes(proto.backlog_rcv is not _no_backlog_rcv),
               *(_yes(getattr(proto, name) is not None) for name in _TABLE_METHODS)]
    return (f"{proto.name:<9s} {proto.obj_size:4d} {sock_prot_inuse_get(net, proto.name):6d}  {memory:6d}   "
            f"{pressure:<3s} {proto.max_header:6d}   {_yesno(proto.name in state.slabs):<3s}  {'kernel':<10s} "
            f"{' '.join(f'{column:>2s}' for column in columns)}\n").encode()


def proto_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/protocols."""
    state = net.kernel.net
    assert state is not None
    yield (b"%-9s %-4s %-8s %-6s %-5s %-7s %-4s %-10s %s\n" % (
        b"protocol", b"size", b"sockets", b"memory", b"press", b"maxhdr", b"slab", b"module",
        b"cl co di ac io in de sh ss gs se re sp bi br ha uh gp em"))
    for proto in reversed(state.protocols.values()):
        yield proto_seq_printf(net, state, proto)


def proto_init_net(net: Net) -> None:
    proc_create_net(net, b"protocols", proto_seq_show)


def proto_exit_net(net: Net) -> None:
    proc_remove_net(net, b"protocols")


def proto_init(kernel: Kernel) -> None:
    """The file exists from now on."""
    register_pernet_subsys(kernel, PernetOperations(proto_init_net, proto_exit_net))
