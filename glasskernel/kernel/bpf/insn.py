"""The instruction set: numbers, decoding, and how the verifier prints instructions.

Linux: include/uapi/linux/bpf_common.h, bpf.h, kernel/bpf/disasm.c (5.3). Same: the text of each instruction.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from glasskernel.kernel.bpf.types import Insn

BPF_LD, BPF_LDX, BPF_ST, BPF_STX, BPF_ALU, BPF_JMP, BPF_JMP32, BPF_ALU64 = range(8)
BPF_W, BPF_H, BPF_B, BPF_DW = 0x00, 0x08, 0x10, 0x18
BPF_IMM, BPF_ABS, BPF_IND, BPF_MEM, BPF_XADD = 0x00, 0x20, 0x40, 0x60, 0xC0
(BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_NEG, BPF_MOD, BPF_XOR, BPF_MOV, BPF_ARSH,
 BPF_END) = range(0, 0xE0, 0x10)
(BPF_JA, BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_CALL, BPF_EXIT, BPF_JLT, BPF_JLE,
 BPF_JSLT, BPF_JSLE) = range(0, 0xE0, 0x10)
BPF_K, BPF_X = 0, 8
BPF_TO_LE, BPF_TO_BE = 0, 8
BPF_LD_IMM64, BPF_EXIT_CODE, BPF_CALL_CODE, BPF_JA_CODE = 0x18, 0x95, 0x85, 0x05
BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, BPF_PSEUDO_CALL = 1, 2, 1
BPF_REG_FP, MAX_BPF_REG = 10, 11
SIZES = {BPF_W: 4, BPF_H: 2, BPF_B: 1, BPF_DW: 8}
_NAMES = (
    "unspec map_lookup_elem map_update_elem map_delete_elem probe_read ktime_get_ns trace_printk get_prandom_u32 "
    "get_smp_processor_id skb_store_bytes l3_csum_replace l4_csum_replace tail_call clone_redirect "
    "get_current_pid_tgid get_current_uid_gid get_current_comm get_cgroup_classid skb_vlan_push skb_vlan_pop "
    "skb_get_tunnel_key skb_set_tunnel_key perf_event_read redirect get_route_realm perf_event_output skb_load_bytes "
    "get_stackid csum_diff skb_get_tunnel_opt skb_set_tunnel_opt skb_change_proto skb_change_type "
    "skb_under_cgroup get_hash_recalc get_current_task probe_write_user current_task_under_cgroup skb_change_tail "
    "skb_pull_data csum_update set_hash_invalid get_numa_node_id skb_change_head xdp_adjust_head probe_read_str "
    "get_socket_cookie get_socket_uid set_hash setsockopt skb_adjust_room redirect_map sk_redirect_map "
    "sock_map_update xdp_adjust_meta perf_event_read_value perf_prog_read_value getsockopt override_return "
    "sock_ops_cb_flags_set msg_redirect_map msg_apply_bytes msg_cork_bytes msg_pull_data bind xdp_adjust_tail "
    "skb_get_xfrm_state get_stack skb_load_bytes_relative fib_lookup sock_hash_update msg_redirect_hash "
    "sk_redirect_hash lwt_push_encap lwt_seg6_store_bytes lwt_seg6_adjust_srh lwt_seg6_action rc_repeat rc_keydown "
    "skb_cgroup_id get_current_cgroup_id get_local_storage sk_select_reuseport skb_ancestor_cgroup_id "
    "sk_lookup_tcp sk_lookup_udp sk_release map_push_elem map_pop_elem map_peek_elem msg_push_data msg_pop_data "
    "rc_pointer_rel spin_lock spin_unlock sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock skc_lookup_tcp "
    "tcp_check_syncookie sysctl_get_name sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value strtol "
    "strtoul sk_storage_get sk_storage_delete send_signal")
FUNC_NAMES = tuple(_NAMES.split())
BPF_FUNC = {name: number for number, name in enumerate(FUNC_NAMES)}      # BPF_FUNC_*
__BPF_FUNC_MAX_ID = len(FUNC_NAMES)
_INSN = struct.Struct("<BBhi")
_ALU = {BPF_ADD: "+=", BPF_SUB: "-=", BPF_MUL: "*=", BPF_DIV: "/=", BPF_OR: "|=", BPF_AND: "&=", BPF_LSH: "<<=",
        BPF_RSH: ">>=", BPF_MOD: "%=", BPF_XOR: "^=", BPF_MOV: "=", BPF_ARSH: "s>>=", BPF_NEG: "neg", BPF_END: "endian"}
_LDST = {BPF_W: "u32", BPF_H: "u16", BPF_B: "u8", BPF_DW: "u64"}
_JMP = {BPF_JA: "jmp", BPF_JEQ: "==", BPF_JGT: ">", BPF_JLT: "<", BPF_JGE: ">=", BPF_JLE: "<=", BPF_JSET: "&",
        BPF_JNE: "!=", BPF_JSGT: "s>", BPF_JSLT: "s<", BPF_JSGE: "s>=", BPF_JSLE: "s<=", BPF_CALL: "call",
        BPF_EXIT: "exit"}


@notrace
def decode(data: bytes) -> list[Insn]:
    return [(code, regs & 15, regs >> 4, off, imm) for code, regs, off, imm in _INSN.iter_unpack(data)]


@notrace
def encode(insns: Sequence[Insn]) -> bytes:
    return b"".join([_INSN.pack(code, dst | src << 4, off, imm) for code, dst, src, off, imm in insns])


@notrace
def func_id_name(number: int) -> str:
    """As the verifier's log calls a helper."""
    return f"bpf_{FUNC_NAMES[number]}" if 0 < number < __BPF_FUNC_MAX_ID else "unknown"


def print_bpf_insn(insns: Sequence[Insn], at: int, allow_ptr_leaks: bool) -> str:
    """One instruction as text, with its line end."""
    code, dst, src, off, imm = insns[at]
    kind = code & 7
    text = f"({code:02x}) "
    if kind in (BPF_ALU, BPF_ALU64):
        operator = _ALU.get(code & 0xF0, "")
        letter = "w" if kind == BPF_ALU else "r"
        if code & 0xF0 == BPF_END:
            if kind == BPF_ALU64:
                return f"BUG_alu64_{code:02x}\n"
            return f"{text}r{dst} = {'be' if code & BPF_TO_BE else 'le'}{imm} r{dst}\n"
        if code & 0xF0 == BPF_NEG:
            return f"{text}{letter}{dst} = -{letter}{dst}\n"
        return text + f"{letter}{dst} {operator} " + (f"{letter}{src}\n" if code & BPF_X else f"{imm}\n")
    size = _LDST[code & 0x18]
    mode = code & 0xE0
    if kind == BPF_STX:
        if mode == BPF_MEM:
            return f"{text}*({size} *)(r{dst} {off:+d}) = r{src}\n"
        if mode == BPF_XADD:
            return f"{text}lock *({size} *)(r{dst} {off:+d}) += r{src}\n"
        return f"BUG_{code:02x}\n"
    if kind == BPF_ST:
        return f"{text}*({size} *)(r{dst} {off:+d}) = {imm}\n" if mode == BPF_MEM else f"BUG_st_{code:02x}\n"
    if kind == BPF_LDX:
        return f"{text}r{dst} = *({size} *)(r{src} {off:+d})\n" if mode == BPF_MEM else f"BUG_ldx_{code:02x}\n"
    if kind == BPF_LD:
        if mode == BPF_ABS:
            return f"{text}r0 = *({size} *)skb[{imm}]\n"
        if mode == BPF_IND:
            return f"{text}r0 = *({size} *)skb[r{src} + {imm}]\n"
        if code == BPF_LD_IMM64:
            value = imm & 0xFFFF_FFFF | (insns[at + 1][4] & 0xFFFF_FFFF) << 32
            if src and not allow_ptr_leaks:
                value = 0
            return f"{text}r{dst} = {value:#x}\n"
        return f"BUG_ld_{code:02x}\n"
    jump = code & 0xF0
    if jump == BPF_CALL:
        if src == BPF_PSEUDO_CALL:
            return f"{text}call pc{imm:+d}\n"
        return f"{text}call {func_id_name(imm)}#{imm}\n"
    if code == BPF_JA_CODE:
        return f"{text}goto pc{off:+d}\n"
    if code == BPF_EXIT_CODE:
        return f"{text}exit\n"
    letter = "w" if kind == BPF_JMP32 else "r"
    other = f"{letter}{src}" if code & BPF_X else f"{imm & 0xFFFFFFFF:#x}"
    return f"{text}if {letter}{dst} {_JMP.get(jump, '')} {other} goto pc{off:+d}\n"
