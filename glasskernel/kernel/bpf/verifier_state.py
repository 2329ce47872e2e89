"""What the verifier knows at one point of a program: registers, stack slots, frames; and its log.

Linux: include/linux/bpf_verifier.h, kernel/bpf/verifier.c (5.3). Same: fields, bounds of scalars, liveness through
    parents, the text of states in the log.
Differs: every scalar counts as precise; a stack slot is an object. Invariants: bounds of a pointer are those of its
    variable part, var_off; signed bounds are Python's signed ints, unsigned ones are not negative.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.tnum import TNUM_UNKNOWN, Tnum, tnum_const, tnum_intersect, tnum_range, tnum_strn
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMap

S64_MIN, S64_MAX, S32_MIN, S32_MAX, U32_MAX = -(1 << 63), (1 << 63) - 1, -(1 << 31), (1 << 31) - 1, (1 << 32) - 1
REG_LIVE_NONE, REG_LIVE_READ, REG_LIVE_WRITTEN, REG_LIVE_DONE = 0, 1, 4, 8
STACK_INVALID, STACK_SPILL, STACK_MISC, STACK_ZERO = range(4)
REG_TYPE_STR: Final = ("?", "inv", "ctx", "map_ptr", "map_value", "map_value_or_null", "fp", "pkt_meta", "pkt",
                       "pkt_end", "flow_keys", "sock", "sock_or_null", "sock_common", "sock_common_or_null",
                       "tcp_sock", "tcp_sock_or_null", "tp_buffer", "xdp_sock")
PACKET_POINTERS = (t.PTR_TO_PACKET, t.PTR_TO_PACKET_META)
SOCKET_POINTERS = (t.PTR_TO_SOCKET, t.PTR_TO_SOCK_COMMON, t.PTR_TO_TCP_SOCK, t.PTR_TO_XDP_SOCK)
NULL_TYPES: Final = {                              # what a pointer is once it is known not to be NULL
    t.PTR_TO_MAP_VALUE_OR_NULL: t.PTR_TO_MAP_VALUE, t.PTR_TO_SOCKET_OR_NULL: t.PTR_TO_SOCKET,
    t.PTR_TO_SOCK_COMMON_OR_NULL: t.PTR_TO_SOCK_COMMON, t.PTR_TO_TCP_SOCK_OR_NULL: t.PTR_TO_TCP_SOCK}
_REFCOUNTED = (t.PTR_TO_SOCKET, t.PTR_TO_TCP_SOCK, t.PTR_TO_SOCKET_OR_NULL, t.PTR_TO_TCP_SOCK_OR_NULL)


class RegState:
    """struct bpf_reg_state. range: of a packet pointer, how many bytes behind it are known to be there."""

    __slots__ = ("frameno", "id", "live", "map_ptr", "off", "parent", "range", "ref_obj_id", "smax_value",
                 "smin_value", "type", "umax_value", "umin_value", "var_off")

    def __init__(self) -> None:
        self.type = t.NOT_INIT
        self.off = self.range = self.id = self.ref_obj_id = self.frameno = 0
        self.map_ptr: BpfMap | None = None
        self.var_off: Tnum = TNUM_UNKNOWN
        self.smin_value, self.smax_value, self.umin_value, self.umax_value = S64_MIN, S64_MAX, 0, U64_MAX
        self.live = REG_LIVE_NONE
        self.parent: RegState | None = None

    def assign(self, other: RegState) -> None:
        """*dst = *src, but for the place in the tree of states."""
        self.type, self.off, self.range, self.id = other.type, other.off, other.range, other.id
        self.ref_obj_id, self.frameno, self.map_ptr = other.ref_obj_id, other.frameno, other.map_ptr
        self.var_off = other.var_off
        self.smin_value, self.smax_value = other.smin_value, other.smax_value
        self.umin_value, self.umax_value = other.umin_value, other.umax_value

    def copy(self) -> RegState:
        new = RegState.__new__(RegState)
        new.assign(self)
        new.live, new.parent = self.live, self.parent
        return new

    @property
    def is_const(self) -> bool:
        return not self.var_off[1]


class StackState:
    """struct bpf_stack_state: eight bytes of the stack. slot_type[0] is that of the lowest address' byte ... as in
    Linux counted from the frame pointer down: byte at fp - 1 - i of the slot."""

    __slots__ = ("slot_type", "spilled_ptr")

    def __init__(self) -> None:
        self.slot_type = [STACK_INVALID] * 8
        self.spilled_ptr = RegState()

    def copy(self) -> StackState:
        new = StackState.__new__(StackState)
        new.slot_type = self.slot_type[:]
        new.spilled_ptr = self.spilled_ptr.copy()
        return new


class FuncState:
    """struct bpf_func_state: a frame. callsite: the call's index. refs: (id, index of who acquired it)."""

    __slots__ = ("callsite", "frameno", "refs", "regs", "stack", "subprogno")

    def __init__(self, callsite: int, frameno: int, subprogno: int) -> None:
        self.callsite, self.frameno, self.subprogno = callsite, frameno, subprogno
        self.regs = [RegState() for _ in range(11)]
        self.stack: list[StackState] = []
        self.refs: list[tuple[int, int]] = []

    def copy(self) -> FuncState:
        new = FuncState.__new__(FuncState)
        new.callsite, new.frameno, new.subprogno = self.callsite, self.frameno, self.subprogno
        new.regs = [reg.copy() for reg in self.regs]
        new.stack = [slot.copy() for slot in self.stack]
        new.refs = self.refs[:]
        return new


class VerifierState:
    """struct bpf_verifier_state. branches: paths from here that are not finished. parent: the state it came from."""

    __slots__ = ("active_spin_lock", "branches", "frame", "insn_idx", "parent")

    def __init__(self) -> None:
        self.frame: list[FuncState] = []
        self.active_spin_lock = 0
        self.branches = 0
        self.insn_idx = 0
        self.parent: VerifierState | None = None

    def copy(self) -> VerifierState:
        """copy_verifier_state()"""
        new = VerifierState.__new__(VerifierState)
        new.frame = [frame.copy() for frame in self.frame]
        new.active_spin_lock, new.branches = self.active_spin_lock, self.branches
        new.insn_idx, new.parent = self.insn_idx, self.parent
        return new


# ---- marking -----------------------------------------------------------------------------------------------------
def __mark_reg_known(reg: RegState, imm: int) -> None:
    """A scalar with this value; of a pointer: its variable part."""
    imm &= U64_MAX
    signed = imm - (1 << 64) if imm >> 63 else imm
    reg.id = 0
    reg.map_ptr, reg.range, reg.off, reg.ref_obj_id = None, 0, 0, 0
    reg.var_off = tnum_const(imm)
    reg.smin_value = reg.smax_value = signed
    reg.umin_value = reg.umax_value = imm


def __mark_reg_known_zero(reg: RegState) -> None:
    __mark_reg_known(reg, 0)


def __mark_reg_unbounded(reg: RegState) -> None:
    reg.smin_value, reg.smax_value, reg.umin_value, reg.umax_value = S64_MIN, S64_MAX, 0, U64_MAX


def __mark_reg_unknown(reg: RegState) -> None:
    reg.type = t.SCALAR_VALUE
    reg.off = reg.range = reg.id = reg.ref_obj_id = reg.frameno = 0
    reg.map_ptr = None
    reg.var_off = TNUM_UNKNOWN
    __mark_reg_unbounded(reg)


def __mark_reg_not_init(reg: RegState) -> None:
    __mark_reg_unknown(reg)
    reg.type = t.NOT_INIT


def __update_reg_bounds(reg: RegState) -> None:
    """Learns from the bits."""
    value, mask = reg.var_off
    low = value | mask & 1 << 63
    high = value | mask & S64_MAX
    reg.smin_value = max(reg.smin_value, low - (1 << 64) if low >> 63 else low)
    reg.smax_value = min(reg.smax_value, high - (1 << 64) if high >> 63 else high)
    reg.umin_value = max(reg.umin_value, value)
    reg.umax_value = min(reg.umax_value, value | mask)


def __reg_deduce_bounds(reg: RegState) -> None:
    """Signed bounds and unsigned ones learn from each other."""
    if reg.smin_value >= 0 or reg.smax_value < 0:
        reg.smin_value = max(reg.smin_value & U64_MAX, reg.umin_value)
        reg.umin_value = reg.smin_value
        reg.smax_value = min(reg.smax_value & U64_MAX, reg.umax_value)
        reg.umax_value = reg.smax_value
        reg.smin_value = _signed(reg.smin_value)
        reg.smax_value = _signed(reg.smax_value)
        return
    if reg.umax_value <= S64_MAX:                  # never negative
        reg.smin_value = reg.umin_value
        reg.smax_value = reg.umax_value = min(reg.smax_value & U64_MAX, reg.umax_value)
    elif reg.umin_value > S64_MAX:                 # always negative
        reg.smin_value = _signed(max(reg.smin_value & U64_MAX, reg.umin_value))
        reg.umin_value = reg.smin_value & U64_MAX
        reg.smax_value = _signed(reg.umax_value)


@notrace
def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def __reg_bound_offset(reg: RegState) -> None:
    """The bits learn from the bounds."""
    reg.var_off = tnum_intersect(reg.var_off, tnum_range(reg.umin_value, reg.umax_value))


def reg_is_pkt_pointer(reg: RegState) -> bool:
    return reg.type in PACKET_POINTERS


# ---- the log -----------------------------------------------------------------------------------------------------
@notrace
def print_liveness(live: int) -> str:
    marks = "".join([letter for bit, letter in ((1, "r"), (4, "w"), (8, "D")) if live & bit])
    return f"_{marks}" if marks else ""


def print_verifier_state(state: FuncState) -> str:
    """A frame, as the log shows it."""
    parts = [f" frame{state.frameno}:"] if state.frameno else []
    for number, reg in enumerate(state.regs):
        if reg.type != t.NOT_INIT:
            parts.append(f" R{number}{print_liveness(reg.live)}={_reg_text(reg)}")
    for number, slot in enumerate(state.stack):
        if any(slot.slot_type):
            reg = slot.spilled_ptr
            if slot.slot_type[0] == STACK_SPILL:
                what = REG_TYPE_STR[reg.type]
                if reg.type == t.SCALAR_VALUE and reg.is_const:
                    what += str(_signed(reg.var_off[0]) + reg.off)
            else:
                what = "".join(["?rm0"[kind] for kind in slot.slot_type])
            parts.append(f" fp{-(number + 1) * 8}{print_liveness(reg.live)}={what}")
    if state.refs:
        parts.append(" refs=" + ",".join([str(number) for number, _ in state.refs]))
    return "".join(parts) + "\n"


@notrace
def _reg_text(reg: RegState) -> str:
    kind = reg.type
    text = REG_TYPE_STR[kind]
    if kind in (t.SCALAR_VALUE, t.PTR_TO_STACK) and reg.is_const:
        return f"{text}{_signed(reg.var_off[0]) + reg.off}"
    text += f"(id={reg.id}"
    if kind in _REFCOUNTED:
        text += f",ref_obj_id={reg.ref_obj_id}"
    if kind != t.SCALAR_VALUE:
        text += f",off={reg.off}"
    if kind in PACKET_POINTERS:
        text += f",r={reg.range}"
    elif reg.map_ptr is not None:
        text += f",ks={reg.map_ptr.key_size},vs={reg.map_ptr.value_size}"
    if reg.is_const:
        return f"{text},imm={reg.var_off[0]:x})"
    if reg.smin_value not in (reg.umin_value, S64_MIN):
        text += f",smin_value={reg.smin_value}"
    if reg.smax_value not in (reg.umax_value, S64_MAX):
        text += f",smax_value={reg.smax_value}"
    if reg.umin_value:
        text += f",umin_value={reg.umin_value}"
    if reg.umax_value != U64_MAX:
        text += f",umax_value={reg.umax_value}"
    return f"{text},var_off={tnum_strn(reg.var_off)})" if reg.var_off != TNUM_UNKNOWN else f"{text})"
