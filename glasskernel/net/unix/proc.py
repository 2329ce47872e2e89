"""/proc/net/unix.

Linux: net/unix/af_unix.c, unix_seq_show() (5.3). Same: the columns. Differs: socks are shown in the order they were
made, not by hash.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.slab_common import object_address
from glasskernel.net.core.sock import sock_i_ino
from glasskernel.net.types import (
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    TCP_ESTABLISHED,
    TCP_LISTEN,
)
from glasskernel.net.unix.types import SUN_PATH, UnixNet, UnixSock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.types import Net

__SO_ACCEPTCON = 1 << 16


def unix_seq_show(net: Net) -> Iterator[bytes]:
    """The file's lines."""
    yield b"Num       RefCount Protocol Flags    Type St Inode Path\n"
    unx: UnixNet = net.unx
    for s in list(unx.sockets):
        yield _line(s)


@notrace
def _line(s: UnixSock) -> bytes:
    established = s.sk_state == TCP_ESTABLISHED
    if s.sk_socket is not None:
        state = SS_CONNECTED if established else SS_UNCONNECTED
    else:
        state = SS_CONNECTING if established else SS_DISCONNECTING
    flags = __SO_ACCEPTCON if s.sk_state == TCP_LISTEN else 0
    line = b"%016x: %08X %08X %08X %04X %02X %5d" % (
        object_address(s), s.sk_refcnt, 0, flags, s.sk_type, state, sock_i_ino(s))
    if s.addr:
        name = s.addr[SUN_PATH:]
        line += b" " + (name[:-1] if name[0] else name).replace(b"\0", b"@")
    return line + b"\n"
