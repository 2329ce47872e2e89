"""The verifier: states that were seen before need not be looked at again.

Linux: kernel/bpf/verifier.c: is_state_visited(), states_equal() and what they call (5.3). Same: when a state is
    remembered, when it is forgotten, when two are equal enough, bounded loops and how endless ones are found.
Differs: every scalar counts as precise (mark_chain_precision() is missing): more states are looked at, never fewer.
"""
from __future__ import annotations

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.tnum import tnum_in
from glasskernel.kernel.bpf.verifier_env import VerifierEnv, mark_reg_read
from glasskernel.kernel.bpf.verifier_state import (
    PACKET_POINTERS,
    REG_LIVE_DONE,
    REG_LIVE_NONE,
    REG_LIVE_READ,
    STACK_INVALID,
    STACK_MISC,
    STACK_SPILL,
    STACK_ZERO,
    FuncState,
    RegState,
    VerifierState,
    __mark_reg_not_init,
)
from glasskernel.lib.errno import EINVAL
from glasskernel.lib.types import notrace

BPF_COMPLEXITY_LIMIT_STATES = 64
IdMap = dict[int, int]


class StateList:
    """struct bpf_verifier_state_list"""

    __slots__ = ("hit_cnt", "miss_cnt", "state")

    def __init__(self, state: VerifierState) -> None:
        self.state = state
        self.miss_cnt = self.hit_cnt = 0


# ---- equal enough ------------------------------------------------------------------------------------------------
@notrace
def range_within(old: RegState, cur: RegState) -> bool:
    return (old.umin_value <= cur.umin_value and old.umax_value >= cur.umax_value
            and old.smin_value <= cur.smin_value and old.smax_value >= cur.smax_value
            and tnum_in(old.var_off, cur.var_off))


@notrace
def check_ids(old: int, cur: int, idmap: IdMap) -> bool:
    return idmap.setdefault(old, cur) == cur


def regsafe(old: RegState, cur: RegState, idmap: IdMap) -> bool:
    """What was proved with `old` holds with `cur` as well."""
    if not old.live & REG_LIVE_READ or old.type == t.NOT_INIT:
        return True
    kind = old.type
    if kind != cur.type:
        return False
    if kind == t.SCALAR_VALUE:
        return range_within(old, cur)
    if kind in (t.PTR_TO_MAP_VALUE, t.PTR_TO_MAP_VALUE_OR_NULL):
        if old.map_ptr is not cur.map_ptr or old.off != cur.off or not range_within(old, cur):
            return False
        return (kind == t.PTR_TO_MAP_VALUE and old.id == cur.id) or check_ids(old.id, cur.id, idmap)
    if kind in PACKET_POINTERS:
        if old.range > cur.range or old.off != cur.off or (old.id and not check_ids(old.id, cur.id, idmap)):
            return False
        return range_within(old, cur)
    return (old.off == cur.off and old.map_ptr is cur.map_ptr and old.id == cur.id and old.frameno == cur.frameno
            and old.ref_obj_id == cur.ref_obj_id and old.var_off == cur.var_off)


def stacksafe(old: FuncState, cur: FuncState, idmap: IdMap) -> bool:
    for number, slot in enumerate(old.stack):
        if not slot.spilled_ptr.live & REG_LIVE_READ or not any(slot.slot_type):
            continue
        if number >= len(cur.stack):
            return False
        now = cur.stack[number]
        for was, is_ in zip(slot.slot_type, now.slot_type, strict=True):
            if was not in (STACK_INVALID, is_) and not (was == STACK_MISC and is_ == STACK_ZERO):
                return False
        if slot.slot_type[0] == STACK_SPILL and not regsafe(slot.spilled_ptr, now.spilled_ptr, idmap):
            return False
    return True


def func_states_equal(old: FuncState, cur: FuncState) -> bool:
    idmap: IdMap = {}
    return (all([regsafe(a, b, idmap) for a, b in zip(old.regs, cur.regs, strict=True)])
            and stacksafe(old, cur, idmap) and old.refs == cur.refs)


def states_equal(old: VerifierState, cur: VerifierState) -> bool:
    if len(old.frame) != len(cur.frame) or old.active_spin_lock != cur.active_spin_lock:
        return False
    return all(a.callsite == b.callsite and func_states_equal(a, b) for a, b in zip(old.frame, cur.frame, strict=True))


def states_maybe_looping(old: VerifierState, cur: VerifierState) -> bool:
    """Nothing has changed since: the registers are the same, bit for bit."""
    if len(old.frame) != len(cur.frame):
        return False
    return all(_same(a, b) for a, b in zip(old.frame[-1].regs, cur.frame[-1].regs, strict=True))


@notrace
def _same(a: RegState, b: RegState) -> bool:
    return (a.type == b.type and a.off == b.off and a.var_off == b.var_off and a.id == b.id and a.map_ptr is b.map_ptr
            and a.range == b.range and a.smin_value == b.smin_value and a.smax_value == b.smax_value
            and a.umin_value == b.umin_value and a.umax_value == b.umax_value)


# ---- liveness ----------------------------------------------------------------------------------------------------
def clean_live_states(states: list[StateList], insn_idx: int, cur: VerifierState) -> None:
    """States that nobody explores any more forget what was never read of them."""
    for entry in states:
        state = entry.state
        if state.branches or state.insn_idx != insn_idx or len(state.frame) != len(cur.frame):
            continue
        if any(a.callsite != b.callsite for a, b in zip(state.frame, cur.frame, strict=True)):
            continue
        if not state.frame[0].regs[0].live & REG_LIVE_DONE:
            for frame in state.frame:
                clean_func_state(frame)


def clean_func_state(state: FuncState) -> None:
    for reg in state.regs:
        live = reg.live
        if not live & REG_LIVE_READ:
            __mark_reg_not_init(reg)
        reg.live = live | REG_LIVE_DONE
    for slot in state.stack:
        live = slot.spilled_ptr.live
        if not live & REG_LIVE_READ:
            __mark_reg_not_init(slot.spilled_ptr)
            slot.slot_type = [STACK_INVALID] * 8
        slot.spilled_ptr.live = live | REG_LIVE_DONE


def propagate_liveness(env: VerifierEnv, old: VerifierState, cur: VerifierState) -> None:
    """What the rest of the program reads, as found out from `old` on, is read of cur's registers."""
    for number, (a, b) in enumerate(zip(old.frame, cur.frame, strict=True)):
        first = 6 if number < len(cur.frame) - 1 else 0
        pairs = list(zip(a.regs, b.regs, strict=True))[first:10]
        pairs += [(x.spilled_ptr, y.spilled_ptr) for x, y in zip(a.stack, b.stack, strict=False)]
        for was, now in pairs:
            if was.live & REG_LIVE_READ and not now.live & REG_LIVE_READ:
                now.live |= REG_LIVE_READ
                mark_reg_read(env, now)


# ---- remembering -------------------------------------------------------------------------------------------------
def is_state_visited(env: VerifierEnv, insn_idx: int) -> bool:
    """True: the rest of this path is known to be fine. Otherwise the state may be remembered. Raises EINVAL: a loop
    that does not end."""
    if not env.aux[insn_idx].prune_point:
        return False
    cur = env.cur_state
    add_new_state = env.test_state_freq or (env.jmps_processed - env.prev_jmps_processed >= 2
                                            and env.insn_processed - env.prev_insn_processed >= 8)
    states: list[StateList] = env.explored_states.setdefault(insn_idx, [])
    clean_live_states(states, insn_idx, cur)
    for entry in states[:]:
        if entry.state.branches:
            if states_maybe_looping(entry.state, cur) and states_equal(entry.state, cur):
                env.refuse(f"infinite loop detected at insn {insn_idx}\n", EINVAL)
            if env.jmps_processed - env.prev_jmps_processed < 20 and (
                    env.insn_processed - env.prev_insn_processed < 100):
                add_new_state = False
        elif states_equal(entry.state, cur):
            entry.hit_cnt += 1
            propagate_liveness(env, entry.state, cur)
            return True
        if add_new_state:
            entry.miss_cnt += 1
        if entry.miss_cnt > entry.hit_cnt * 3 + 3:
            states.remove(entry)
            if not entry.state.branches:
                env.peak_states -= 1
    env.max_states_per_insn = max(env.max_states_per_insn, len(states))
    if not add_new_state or (not env.allow_ptr_leaks and len(states) > BPF_COMPLEXITY_LIMIT_STATES):
        return False
    env.total_states += 1
    env.peak_states += 1
    env.prev_jmps_processed, env.prev_insn_processed = env.jmps_processed, env.insn_processed
    new = cur.copy()
    new.insn_idx, new.branches = insn_idx, 1
    states.insert(0, StateList(new))
    cur.parent = new
    for number, (ours, theirs) in enumerate(zip(cur.frame, new.frame, strict=True)):
        for regno in range(10):
            if regno >= 6 or number == len(cur.frame) - 1:
                ours.regs[regno].parent = theirs.regs[regno]
            ours.regs[regno].live = REG_LIVE_NONE
        for slot, parent in zip(ours.stack, theirs.stack, strict=True):
            slot.spilled_ptr.live = REG_LIVE_NONE
            slot.spilled_ptr.parent = parent.spilled_ptr
    return False


def update_branch_counts(state: VerifierState | None) -> None:
    """A path is finished: the states it came through have one branch less to wait for."""
    while state is not None:
        state.branches -= 1
        if state.branches:
            break
        state = state.parent
