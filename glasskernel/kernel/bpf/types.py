"""BPF's objects and tables: programs, maps, what a type of program may see and call.

Linux: include/linux/bpf.h, bpf_verifier.h, filter.h, include/uapi/linux/bpf.h (5.3). Same: names, numbers, who asks
    whom.
Differs: a program's context is any Python object; only its type knows how. `convert_ctx_access` answers a function
    that reads (or writes) one field, where Linux answers instructions. Helpers get their arguments decoded: see
    BpfFuncProto.
    A program runs as one Python function that kernel/bpf/core.py makes of it.

To add a type of program: an ops object (BpfVerifierOps, BpfProgOps) in a module of this layer, and a row for it in
kernel/bpf/prog_types.py. To run one: `prog.run(ctx)`, which lower layers can call without importing anything.
Context of a run: any; a program never sleeps.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.bpf.memory import STACK_BASE, STACK_END, read_kernel, write_kernel
from glasskernel.lib.errno import EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.btf import Btf

# ---- enum bpf_prog_type ------------------------------------------------------------------------------------------
(BPF_PROG_TYPE_UNSPEC, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_SCHED_CLS,
 BPF_PROG_TYPE_SCHED_ACT, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_PERF_EVENT,
 BPF_PROG_TYPE_CGROUP_SKB, BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_LWT_IN, BPF_PROG_TYPE_LWT_OUT,
 BPF_PROG_TYPE_LWT_XMIT, BPF_PROG_TYPE_SOCK_OPS, BPF_PROG_TYPE_SK_SKB, BPF_PROG_TYPE_CGROUP_DEVICE,
 BPF_PROG_TYPE_SK_MSG, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_LWT_SEG6LOCAL,
 BPF_PROG_TYPE_LIRC_MODE2, BPF_PROG_TYPE_SK_REUSEPORT, BPF_PROG_TYPE_FLOW_DISSECTOR, BPF_PROG_TYPE_CGROUP_SYSCTL,
 BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, BPF_PROG_TYPE_CGROUP_SOCKOPT) = range(26)

# ---- enum bpf_map_type -------------------------------------------------------------------------------------------
(BPF_MAP_TYPE_UNSPEC, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
 BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_STACK_TRACE,
 BPF_MAP_TYPE_CGROUP_ARRAY, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_LPM_TRIE,
 BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_DEVMAP, BPF_MAP_TYPE_SOCKMAP,
 BPF_MAP_TYPE_CPUMAP, BPF_MAP_TYPE_XSKMAP, BPF_MAP_TYPE_SOCKHASH, BPF_MAP_TYPE_CGROUP_STORAGE,
 BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK,
 BPF_MAP_TYPE_SK_STORAGE) = range(25)

BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 0, 1, 2, 4
(BPF_F_NO_PREALLOC, BPF_F_NO_COMMON_LRU, BPF_F_NUMA_NODE, BPF_F_RDONLY, BPF_F_WRONLY, BPF_F_STACK_BUILD_ID,
 BPF_F_ZERO_SEED, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG) = (1 << n for n in range(9))
BPF_OBJ_NAME_LEN = 16
MAX_BPF_STACK = 512

# ---- enum bpf_reg_type: what a register holds --------------------------------------------------------------------
(NOT_INIT, SCALAR_VALUE, PTR_TO_CTX, CONST_PTR_TO_MAP, PTR_TO_MAP_VALUE, PTR_TO_MAP_VALUE_OR_NULL, PTR_TO_STACK,
 PTR_TO_PACKET_META, PTR_TO_PACKET, PTR_TO_PACKET_END, PTR_TO_FLOW_KEYS, PTR_TO_SOCKET, PTR_TO_SOCKET_OR_NULL,
 PTR_TO_SOCK_COMMON, PTR_TO_SOCK_COMMON_OR_NULL, PTR_TO_TCP_SOCK, PTR_TO_TCP_SOCK_OR_NULL, PTR_TO_TP_BUFFER,
 PTR_TO_XDP_SOCK) = range(19)

# ---- enum bpf_arg_type: what a helper asks for, and enum bpf_return_type ------------------------------------------
(ARG_DONTCARE, ARG_CONST_MAP_PTR, ARG_PTR_TO_MAP_KEY, ARG_PTR_TO_MAP_VALUE, ARG_PTR_TO_UNINIT_MAP_VALUE,
 ARG_PTR_TO_MAP_VALUE_OR_NULL, ARG_PTR_TO_MEM, ARG_PTR_TO_MEM_OR_NULL, ARG_PTR_TO_UNINIT_MEM, ARG_CONST_SIZE,
 ARG_CONST_SIZE_OR_ZERO, ARG_PTR_TO_CTX, ARG_ANYTHING, ARG_PTR_TO_SPIN_LOCK, ARG_PTR_TO_SOCK_COMMON, ARG_PTR_TO_INT,
 ARG_PTR_TO_LONG, ARG_PTR_TO_SOCKET) = range(18)
(RET_INTEGER, RET_VOID, RET_PTR_TO_MAP_VALUE, RET_PTR_TO_MAP_VALUE_OR_NULL, RET_PTR_TO_SOCKET_OR_NULL,
 RET_PTR_TO_TCP_SOCK_OR_NULL, RET_PTR_TO_SOCK_COMMON_OR_NULL) = range(7)
BPF_READ, BPF_WRITE = 1, 2

Insn = tuple[int, int, int, int, int]              # struct bpf_insn: code, dst_reg, src_reg, off (s16), imm (s32)


# ---- types of programs -------------------------------------------------------------------------------------------
@slotted
class BpfInsnAccessAux:
    """struct bpf_insn_access_aux: what is_valid_access() answers besides yes. ctx_field_size: of a field that may be
    read in parts (bpf_ctx_record_field_size()); the whole field is read then, and the part taken."""

    reg_type: int = SCALAR_VALUE                   # of what is read
    ctx_field_size: int = 0


@notrace
def no_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    return False


ReadField = Callable[["BpfRun"], int]
WriteField = Callable[["BpfRun", int], None]


@slotted(frozen=True)
class BpfVerifierOps:
    """struct bpf_verifier_ops.

    get_func_proto: a helper by number (BPF_FUNC_*) for programs of this type; None: not allowed.
    is_valid_access: may the context be accessed there? type: BPF_READ or BPF_WRITE.
    convert_ctx_access: (type, off, size, prog) -> how a valid access is done: a function of the run that answers an
        unsigned number, or one of the run and a number for BPF_WRITE. off and size are those of the access, or of the
        whole field if ctx_field_size said so.
    packet: (ctx) -> the bytearray (memoryview) with the packet, and the address of its first byte (which `data` and
        its like are relative to). None: this type has no packet. Asked at the start, and after each helper that
        may change the packet.
    sock_is_valid_access: (reg_type, off, size, info) -> may it be read behind a PTR_TO_SOCKET and its like?
    convert_sock_access: (reg_type, off, size) -> how: a function of the socket object that answers a number.
    gen_ld_abs: (run, offset, size) -> bytes of the packet in host order; None: outside. None: no LD_ABS and LD_IND.
    """

    get_func_proto: Callable[[int, BpfProg], BpfFuncProto | None]
    is_valid_access: Callable[[int, int, int, BpfProg, BpfInsnAccessAux], bool] = no_access
    convert_ctx_access: Callable[[int, int, int, BpfProg], Any] | None = None
    packet: Callable[[Any], tuple[Any, int]] | None = None
    gen_ld_abs: Callable[[BpfRun, int, int], int | None] | None = None
    sock_is_valid_access: Callable[[int, int, int, BpfInsnAccessAux], bool] | None = None
    convert_sock_access: Callable[[int, int, int], Callable[[Any], int]] | None = None


@slotted(frozen=True)
class BpfProgOps:
    """struct bpf_prog_ops.

    test_run: (prog, data, repeat, ctx_in) -> (retval, data_out, ctx_out, duration in ns). None: BPF_PROG_TEST_RUN is
    ENOTSUPP.
    """

    test_run: Callable[[BpfProg, bytes, int, bytes | None], tuple[int, bytes, bytes | None, int]] | None = None


@slotted(frozen=True)
class BpfProgType:
    """A row of the table of program types. name: as bpftool knows it (documentation only)."""

    name: bytes
    verifier_ops: BpfVerifierOps
    prog_ops: BpfProgOps


@slotted(frozen=True)
class BpfFuncProto:
    """struct bpf_func_proto. func is called with the run (BpfRun) and one value for each argument type:

    ARG_CONST_MAP_PTR: the BpfMap. ARG_PTR_TO_CTX: the context object. ARG_PTR_TO_MAP_KEY, ARG_PTR_TO_MAP_VALUE,
    ARG_PTR_TO_MEM: bytes (of the map's size, or of the size that the next argument says; None for a NULL of the
    _OR_NULL types). ARG_PTR_TO_UNINIT_MEM, ARG_PTR_TO_UNINIT_MAP_VALUE, ARG_PTR_TO_INT/_LONG: the address, for
    run.write(address, bytes). ARG_PTR_TO_SOCK*: the object (run.object_of()). All others: the register's 64 bits,
    unsigned; c_int() makes an int of one.
    It answers an int (negative errno as in C), an address, or for RET_PTR_TO_SOCK* an object or None.
    changes_pkt_data: bpf_helper_changes_pkt_data(). gpl_only, pkt_access: as in Linux.
    """

    func: Callable[..., Any]
    ret_type: int
    args: tuple[int, ...] = ()
    gpl_only: bool = False
    pkt_access: bool = False
    changes_pkt_data: bool = False


# ---- maps --------------------------------------------------------------------------------------------------------
@notrace
def not_supported(map: BpfMap, *_arguments: Any) -> Any:
    raise KernelError(EOPNOTSUPP)


@notrace
def nothing_to_do(map: BpfMap, *_arguments: Any) -> None:
    """The entry may be missing."""


@slotted(frozen=True)
class BpfMapOps:
    """struct bpf_map_ops. Keys and values are bytes of the map's sizes. They raise KernelError. A map is Any here: each
    table is of one subclass.

    map_alloc_check: (attr) raises EINVAL, E2BIG ... map_alloc: (kernel, attr) -> the map (a subclass of BpfMap).
    map_lookup_elem: (map, key) -> the value's address, 0: there is none; or what a program gets instead (a map).
    map_copy_value: (map, key) -> what bpf(2) answers: bytes, or None. Missing: the bytes at map_lookup_elem().
    percpu: a value for each CPU. A program has its own CPU's; bpf(2) has all, each a multiple of 8 bytes long, from
    map_copy_value and for map_update_value (map, key, values, flags).
    map_update_elem: (map, key, value, flags). map_delete_elem: (map, key). map_push_elem: (map, value, flags).
    map_pop_elem, map_peek_elem: (map) -> value or None.
    map_get_next_key: (map, key or None) -> the next one; raises ENOENT at the end.
    map_fd_get_ptr: (map, fd) -> the object of a map of objects, with a reference; map_fd_put_ptr gives it back;
    map_fd_sys_lookup_elem: (object) -> its number for bpf(2). map_release: the last descriptor is gone.
    map_direct_value_addr: (map, offset) -> an address that BPF_PSEUDO_MAP_VALUE may name; raises EINVAL, ENOTSUPP.
    map_check_btf: (map, btf, key_type, value_type) raises.
    """

    map_alloc: Callable[[Kernel, Any], BpfMap]
    map_free: Callable[[Any], None]
    map_alloc_check: Callable[[Any], None] | None = None
    map_lookup_elem: Callable[[Any, bytes], Any] = not_supported
    map_copy_value: Callable[[Any, bytes], bytes | None] | None = None
    map_update_elem: Callable[[Any, bytes, bytes, int], None] = not_supported
    map_update_value: Callable[[Any, bytes, bytes, int], None] | None = None
    percpu: bool = False
    map_delete_elem: Callable[[Any, bytes], None] = not_supported
    map_get_next_key: Callable[[Any, bytes | None], bytes] = not_supported
    map_push_elem: Callable[[Any, bytes, int], None] = not_supported
    map_pop_elem: Callable[[Any], bytes | None] = not_supported
    map_peek_elem: Callable[[Any], bytes | None] = not_supported
    map_fd_get_ptr: Callable[[Any, int], Any] | None = None
    map_fd_put_ptr: Callable[[Any], None] | None = None
    map_fd_sys_lookup_elem: Callable[[Any], int] | None = None
    map_release: Callable[[Any], None] = nothing_to_do
    map_direct_value_addr: Callable[[Any, int], int] | None = None
    map_check_btf: Callable[[Any, Btf, int, int], None] | None = None


class BpfMap:
    """struct bpf_map. A type of map with more fields has a subclass.

    kaddr: the map's address, as programs see it. memory_pages: charged to user. refcnt, usercnt: holders of any kind;
    descriptors and pinned files.
    """

    __slots__ = ("btf", "btf_key_type_id", "btf_value_type_id", "frozen", "id", "inner_map_meta", "kaddr", "kernel",
                 "key_size", "map_flags", "map_type", "max_entries", "memory_pages", "name", "ops", "owner_prog_type",
                 "refcnt", "spin_lock_off", "user", "usercnt", "value_size")

    ops: BpfMapOps

    def __init__(self, kernel: Kernel, map_type: int, key_size: int, value_size: int, max_entries: int,
                 map_flags: int) -> None:
        self.kernel = kernel
        self.map_type, self.map_flags = map_type, map_flags
        self.key_size, self.value_size, self.max_entries = key_size, value_size, max_entries
        self.id = self.kaddr = self.memory_pages = 0
        self.name = b""
        self.user = 0                              # uid of the user whose locked memory it counts for
        self.refcnt = self.usercnt = 1
        self.frozen = False
        self.spin_lock_off = -1
        self.btf: Btf | None = None
        self.btf_key_type_id = self.btf_value_type_id = 0
        self.inner_map_meta: BpfMap | None = None
        self.owner_prog_type = 0                   # of a PROG_ARRAY: all its programs are of the first one's type


# ---- programs ----------------------------------------------------------------------------------------------------
class BpfProg:
    """struct bpf_prog with its struct bpf_prog_aux. insns: as verified and rewritten; bpf_func: made of them.

    run(ctx): BPF_PROG_RUN(). tag: 8 bytes. used_maps, used_progs: references this program holds.
    """

    __slots__ = ("bpf_func", "btf", "expected_attach_type", "func_info", "func_info_rec_size", "gpl_compatible", "id",
                 "insns", "kaddr", "kernel", "line_info", "line_info_rec_size", "load_time", "map_insns",
                 "max_ctx_offset", "max_tp_access", "memory_pages", "name", "prog_type", "refcnt", "run_cnt",
                 "run_time_ns", "stack_size", "tag", "type", "uid", "used_maps", "user")

    def __init__(self, kernel: Kernel, type: int, insns: list[Insn]) -> None:
        self.kernel = kernel
        self.type = type
        self.insns = insns
        self.expected_attach_type = 0              # enum bpf_attach_type
        self.prog_type: BpfProgType
        self.bpf_func: Callable[[BpfRun], int]
        self.id = self.kaddr = self.load_time = self.memory_pages = 0
        self.uid = self.user = 0                   # who loaded it; whose locked memory it counts for
        self.name = b""
        self.tag = bytes(8)
        self.refcnt = 1
        self.gpl_compatible = False
        self.used_maps: list[BpfMap] = []
        self.map_insns: dict[int, BpfMap] = {}     # by instruction: what a BPF_LD_IMM64 names
        self.stack_size = MAX_BPF_STACK            # of all frames
        self.max_ctx_offset = self.max_tp_access = 0
        self.run_cnt = self.run_time_ns = 0
        self.btf: Btf | None = None
        self.func_info = self.line_info = b""
        self.func_info_rec_size = self.line_info_rec_size = 0

    def run(self, ctx: Any) -> int:
        """BPF_PROG_RUN(): the program's answer, 32 bits (unsigned). Context: any; never sleeps."""
        if not self.kernel.sysctl.bpf_stats_enabled:
            return self.bpf_func(BpfRun(self, ctx)) & 0xFFFF_FFFF
        cpu = self.kernel.machine.this_cpu
        start = cpu.clock_ns
        answer = self.bpf_func(BpfRun(self, ctx)) & 0xFFFF_FFFF
        self.run_cnt += 1
        self.run_time_ns += cpu.clock_ns - start
        return answer


class BpfRun:
    """One run of a program. stack: of all its frames, at STACK_BASE. pkt: the packet, pkt_base: address of pkt[0]."""

    __slots__ = ("ctx", "kernel", "objects", "pkt", "pkt_base", "prog", "stack", "tail_calls")

    def __init__(self, prog: BpfProg, ctx: Any) -> None:
        self.kernel = prog.kernel
        self.prog = prog
        self.ctx = ctx
        self.stack = bytearray(prog.stack_size)
        self.pkt: Any = b""
        self.pkt_base = 0
        self.tail_calls = 0
        self.objects: dict[int, Any] = {}          # what helpers answered: sockets by address

    def read(self, address: int, size: int) -> bytes:
        """Bytes behind any pointer that the verifier allows."""
        if STACK_BASE <= address < STACK_END:
            return bytes(self.stack[address - STACK_BASE : address - STACK_BASE + size])
        if self.pkt_base <= address < self.pkt_base + len(self.pkt):
            return bytes(self.pkt[address - self.pkt_base : address - self.pkt_base + size])
        return read_kernel(self.kernel, address, size)

    def write(self, address: int, data: bytes) -> None:
        if STACK_BASE <= address < STACK_END:
            self.stack[address - STACK_BASE : address - STACK_BASE + len(data)] = data
        elif self.pkt_base <= address < self.pkt_base + len(self.pkt):
            self.pkt[address - self.pkt_base : address - self.pkt_base + len(data)] = data
        else:
            write_kernel(self.kernel, address, data)

    def object_of(self, address: int) -> Any:
        """What a helper of this run answered."""
        return self.objects[address]


@notrace
def c_int(value: int) -> int:
    """A register's low half as an int."""
    return ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000
