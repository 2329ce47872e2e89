"""The little programs with which ss(8) says which sockets it wants.

Linux: the INET_DIAG_BC_* half of net/ipv4/inet_diag.c (5.3). Same: instructions, what a program may not do (EINVAL).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.types import AF_INET, AF_UNSPEC, SOCK_BINDPORT_LOCK

if TYPE_CHECKING:
    from glasskernel.net.types import Sock

INET_DIAG_REQ_BYTECODE = 1
(INET_DIAG_BC_NOP, INET_DIAG_BC_JMP, INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE, INET_DIAG_BC_D_GE, INET_DIAG_BC_D_LE,
 INET_DIAG_BC_AUTO, INET_DIAG_BC_S_COND, INET_DIAG_BC_D_COND, INET_DIAG_BC_DEV_COND, INET_DIAG_BC_MARK_COND,
 INET_DIAG_BC_S_EQ, INET_DIAG_BC_D_EQ) = range(13)
inet_diag_bc_op = struct.Struct("<BBH")              # code, yes, no: how far to go
inet_diag_hostcond = struct.Struct("<BBxxi")         # family, prefix_len, port; then the address


@notrace
def _matches(program: bytes, at: int, port: int, address: int) -> bool:
    """A host condition: port (-1: any) and prefix."""
    family, prefix_len, wanted = inet_diag_hostcond.unpack_from(program, at + 4)
    if wanted not in (-1, port):
        return False
    if family not in (AF_UNSPEC, AF_INET):
        return False
    if not prefix_len:
        return True
    start = at + 4 + inet_diag_hostcond.size
    return not (int.from_bytes(program[start : start + 4], "big") ^ address) >> 32 - prefix_len


def inet_diag_bc_run(program: bytes, sk: Sock, addresses: tuple[int, int, int, int]) -> bool:
    """Does the program want the sock? addresses: ports and addresses, local ones first."""
    sport, dport, src, dst = addresses
    at, size = 0, len(program)
    while at < size:
        code, yes, no = inet_diag_bc_op.unpack_from(program, at)
        value = inet_diag_bc_op.unpack_from(program, at + 4)[2] if at + 8 <= size else 0
        if code == INET_DIAG_BC_JMP:
            met = False
        elif code in (INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE, INET_DIAG_BC_S_EQ):
            met = sport >= value if code == INET_DIAG_BC_S_GE else sport <= value
            if code == INET_DIAG_BC_S_EQ:
                met = sport == value
        elif code in (INET_DIAG_BC_D_GE, INET_DIAG_BC_D_LE, INET_DIAG_BC_D_EQ):
            met = dport >= value if code == INET_DIAG_BC_D_GE else dport <= value
            if code == INET_DIAG_BC_D_EQ:
                met = dport == value
        elif code == INET_DIAG_BC_AUTO:
            met = not sk.sk_userlocks & SOCK_BINDPORT_LOCK
        elif code in (INET_DIAG_BC_S_COND, INET_DIAG_BC_D_COND):
            end = (sport, src) if code == INET_DIAG_BC_S_COND else (dport, dst)
            met = _matches(program, at, *end)
        elif code == INET_DIAG_BC_DEV_COND:
            met = int.from_bytes(program[at + 4 : at + 8], "little") == sk.sk_bound_dev_if
        elif code == INET_DIAG_BC_MARK_COND:
            mark, mask = struct.unpack_from("<II", program, at + 4)
            met = sk.sk_mark & mask == mark
        else:
            met = True
        at += yes if met else no
    return at == size


_MORE = {INET_DIAG_BC_S_COND: 12, INET_DIAG_BC_D_COND: 12, INET_DIAG_BC_DEV_COND: 8, INET_DIAG_BC_MARK_COND: 12,
         **dict.fromkeys((INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE, INET_DIAG_BC_D_GE, INET_DIAG_BC_D_LE,
                          INET_DIAG_BC_S_EQ, INET_DIAG_BC_D_EQ), 8)}


def inet_diag_bc_audit(program: bytes) -> None:
    """Raises EINVAL for a program that reads or jumps out of itself, backwards, or between instructions."""
    at, size = 0, len(program)
    starts = set()
    jumps = []
    while at < size:
        if size - at < inet_diag_bc_op.size:
            raise KernelError(EINVAL)
        starts.add(at)
        code, yes, no = inet_diag_bc_op.unpack_from(program, at)
        need = _MORE.get(code, 4)
        if code > INET_DIAG_BC_D_EQ or size - at < need:
            raise KernelError(EINVAL)
        if code in (INET_DIAG_BC_S_COND, INET_DIAG_BC_D_COND):
            family, prefix_len, _port = inet_diag_hostcond.unpack_from(program, at + 4)
            words = {AF_UNSPEC: 0, AF_INET: 4}.get(family, 16)
            if prefix_len > 8 * words or size - at < need + words:
                raise KernelError(EINVAL)
        if code != INET_DIAG_BC_NOP:
            if no < 4 or no > size - at + 4 or no & 3:
                raise KernelError(EINVAL)
            if no < size - at:
                jumps.append(at + no)
        if yes < 4 or yes > size - at + 4 or yes & 3:
            raise KernelError(EINVAL)
        at += yes
    if any(jump not in starts for jump in jumps):
        raise KernelError(EINVAL)
