"""The CPU engine: runs user code until something traps.

Stands for the processor. Wraps Unicorn 2.1.4 and owns every trick that it needs:
  * registers live in a CpuContext per task, a copy of the engine's whole CPU state; run() loads it, runs and
    saves it in one native call, so that a trap costs one trip through ctypes;
  * hooks are a few bytes of machine code (x86-64 hosts): they note the trap and stop. Elsewhere the same hooks
    are Python callbacks, slower, with the same answers;
  * one of them counts executed blocks: the clock, and the end of a time slice;
  * where error codes lie in the context is found out at start-up, by faults whose codes are known.
Invariant: nothing of the kernel runs inside a callback; run() has returned first.
"""
from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from glasskernel.machine import unicorn_lib as X
from glasskernel.machine.unicorn_lib import EngineError, lib

# What run() answers: an exception vector (0..31), a software interrupt (0x80), or one of these.
VECTOR_SYSCALL = 0x100
VECTOR_BUDGET = 0x101          # the block budget ran out
VECTOR_ENGINE_ERROR = 0x102    # the engine itself gave up; error() says why
RAX, RSP = X.UC_X86_REG_RAX, X.UC_X86_REG_RSP      # for Engine.register()

KERNEL_BASE = 0xFFFF_8000_0000_0000     # where the engine's own page is mapped, in ring 0 only
ENGINE_RESERVED = 0x10000               # RAM below is the engine's: tables, descriptors, its ring-0 page

_PML4, _PDPT, _PD, _PT, _GDT, _CODE, _STACK, _PROBE = 0x1000, 0x2000, 0x3000, 0x4000, 0x7000, 0x8000, 0xA000, 0xB000
_PROBE_PT3, _PROBE_PT2, _PROBE_PT1 = 0xC000, 0xD000, 0xE000
_P, _W, _U = 1, 2, 4
_KMAP = KERNEL_BASE + 0x1F_F000         # one kernel page that is pointed at any frame
_CLEAR = struct.Struct("<i").pack(-1)

_ARG_UC, _ARG_CONTEXT, _ARG_RIP_OFFSET, _ARG_RESTORE, _ARG_START, _ARG_SAVE, _ARG_REG_READ = range(7)
_ARG_ERROR, _ARG_EFLAGS, _ARG_TRAP, _ARG_BUDGET, _ARG_PORT_RIP = range(7, 12)
_PIECES, _PIECE_SIZE, _BLOCK_PIECE = 0x100, 0x80, 3      # where the machine code of the hooks lies in the page
_WATCH_BITS = 20                        # watched addresses: a bitmap of 2 ** 20 hash values
_WATCH_MASK = (1 << _WATCH_BITS) - 1

# Machine code, with the argument block at page start (all slots 8 bytes).
_RUN = bytes.fromhex(
    "53"                # push rbx
    "4889fb"            # mov  rbx, rdi            argument block
    "488b3b"            # mov  rdi, [rbx]          engine
    "488b7308"          # mov  rsi, [rbx+8]        context
    "ff5318"            # call [rbx+24]            uc_context_restore
    "488b3b"            # mov  rdi, [rbx]
    "488b4308"          # mov  rax, [rbx+8]
    "48034310"          # add  rax, [rbx+16]       where RIP is in the context
    "488b30"            # mov  rsi, [rax]
    "31d2" "31c9" "4531c0"  # xor edx, edx; xor ecx, ecx; xor r8d, r8d
    "ff5320"            # call [rbx+32]            uc_emu_start
    "48894338"          # mov  [rbx+56], rax       error
    "488b3b"            # mov  rdi, [rbx]
    "488b7308"          # mov  rsi, [rbx+8]
    "ff5328"            # call [rbx+40]            uc_context_save
    "488b3b"            # mov  rdi, [rbx]
    "be19000000"        # mov  esi, UC_X86_REG_EFLAGS
    "488d5340"          # lea  rdx, [rbx+64]
    "ff5330"            # call [rbx+48]            uc_reg_read
    "8b4348"            # mov  eax, [rbx+72]       trap
    "5b" "c3"           # pop  rbx; ret
)


def _host() -> str:
    """The host's architecture."""
    return os.uname().machine


def _words(image: bytes, value: int) -> Iterator[int]:
    """The offsets of the aligned 32-bit words that have this value."""
    word = struct.pack("<I", value)
    found = image.find(word)
    while found >= 0:
        if not found & 3:
            yield found
        found = image.find(word, found + 1)


class CpuContext:
    """The registers of one task.

    regs: 64-bit words in the engine's order (rax rcx rdx rbx rsp rbp rsi rdi r8..r15 rip).
    """

    __slots__ = ("_buffer", "_engine", "_view", "address", "regs")

    def __init__(self, engine: Engine, image: bytes) -> None:
        self._engine = engine
        self._buffer = ctypes.create_string_buffer(image, len(image))
        self.address = ctypes.addressof(self._buffer)
        self._view = memoryview(self._buffer).cast("B")
        base = engine.offset_regs
        self.regs = self._view[base : base + 17 * 8].cast("Q")

    def image(self) -> bytes:
        """A copy of everything, for CpuContext(engine, image)."""
        return bytes(self._view)

    def load(self, image: bytes) -> None:
        """Becomes a copy of `image`."""
        self._view[:] = image

    def read(self, register: int) -> int:
        """A register by Unicorn's number, up to 64 bits. Slow: not for the registers in regs."""
        return self._engine.context_read(self.address, register, 8)

    def write(self, register: int, value: int) -> None:
        self._engine.context_write(self.address, register, value, 8)

    @property
    def fault_address(self) -> int:
        """CR2 of the last page fault."""
        offset = self._engine.offset_cr2
        return int.from_bytes(self._view[offset : offset + 8], "little")

    @property
    def error_code(self) -> int:
        """What the CPU pushed for the last exception that has an error code."""
        offset = self._engine.offset_error_code
        return int.from_bytes(self._view[offset : offset + 4], "little")

    def clear_exception(self) -> None:
        """The exception was taken; without this the next one would be a double fault."""
        offset = self._engine.offset_exception
        self._view[offset : offset + 4] = _CLEAR

    @property
    def eflags(self) -> int:
        return self.read(X.UC_X86_REG_EFLAGS) & 0xFFFFFFFF

    @eflags.setter
    def eflags(self, value: int) -> None:
        self.write(X.UC_X86_REG_EFLAGS, value)

    @property
    def fs_base(self) -> int:
        return self.read(X.UC_X86_REG_FS_BASE)

    @fs_base.setter
    def fs_base(self, value: int) -> None:
        self.write(X.UC_X86_REG_FS_BASE, value)

    @property
    def gs_base(self) -> int:
        return self.read(X.UC_X86_REG_GS_BASE)

    @gs_base.setter
    def gs_base(self, value: int) -> None:
        self.write(X.UC_X86_REG_GS_BASE, value)

    def set_page_table(self, physical: int) -> None:
        """CR3. The engine's TLB is not told: Engine.loaded_tables is how the machine knows to flush it."""
        offset = self._engine.offset_cr3
        self._view[offset : offset + 8] = physical.to_bytes(8, "little")

    def fxsave(self) -> bytes:
        """The x87 and SSE state in FXSAVE's 512-byte layout (Intel SDM vol. 1, 10.5.1)."""
        return self._engine.fxsave(self.address)

    def fxrstor(self, area: bytes) -> None:
        """Loads what fxsave() answered. Reserved bits of MXCSR must be clear (the caller checks)."""
        self._engine.fxrstor(self.address, area)


class Engine:
    """One Unicorn instance over one RAM. `loaded_tables`: the CR3 that the TLB belongs to, 0 = flush first."""

    def __init__(self, ram: mmap.mmap, size: int) -> None:
        self._ram = ram
        self.ram64 = memoryview(ram).cast("Q")
        self._run: Callable[[], int]
        self._handle = X.open_engine(X.UC_CPU_X86_WESTMERE)
        weakref.finalize(self, lib.uc_close, self._handle)
        address = ctypes.addressof(ctypes.c_char.from_buffer(ram))
        X.check("uc_mem_map_ptr", lib.uc_mem_map_ptr(self._handle, 0, size, X.UC_PROT_ALL, address))
        # Without exits: otherwise emu_start looks `until` up, which faults and overwrites CR2.
        X.control(self._handle, X.UC_CTL_UC_USE_EXITS, ctypes.c_int(1))
        self.loaded_tables = 0
        self._build_ring0()
        self._build_fx()
        self._page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._native = _host() == "x86_64"
        if self._native:
            try:
                self._page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            except OSError:             # a host that forbids writable code (hardened kernels)
                self._native = False
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.args = memoryview(self._page)[: 16 * 8].cast("Q")
        self._budget = memoryview(self._page)[: 16 * 8].cast("q")
        self._keep: list[Any] = []      # callbacks must outlive the engine
        self._listener: Callable[[int], None] | None = None
        self._watched = bytearray(0)
        self._on_watched: Any = None
        self._register = ctypes.c_uint64()
        self._register_at = ctypes.byref(self._register)
        self._install_hooks()
        self._template = b""
        self._discover()

    # ---- running ------------------------------------------------------------------------------------------------
    def new_context(self) -> CpuContext:
        """A context in ring 3 with clean registers; set regs and the page table before run()."""
        return CpuContext(self, self._template)

    def run(self, context: CpuContext, blocks: int) -> int:
        """Runs until a trap or for at most `blocks` blocks; answers the vector. blocks_left() says what is over."""
        args = self.args
        args[_ARG_CONTEXT] = context.address
        args[_ARG_TRAP] = VECTOR_BUDGET
        args[_ARG_BUDGET] = blocks
        vector: int = self._run()
        if vector == 13 and args[_ARG_PORT_RIP]:
            context.regs[16] = args[_ARG_PORT_RIP]       # IN and OUT stop at the end of their block only
            args[_ARG_PORT_RIP] = 0
        return vector

    def blocks_left(self) -> int:
        """What run() did not use of its budget, at least 0."""
        left = self._budget[_ARG_BUDGET]
        return left if left > 0 else 0

    @property
    def eflags(self) -> int:
        """RFLAGS when run() returned."""
        return self.args[_ARG_EFLAGS] & 0xFFFFFFFF

    def error(self) -> int:
        """Unicorn's error number of the last run()."""
        return self.args[_ARG_ERROR] & 0xFFFFFFFF

    def flush_tlb(self) -> None:
        """Forgets every translation of addresses."""
        lib.uc_ctl(self._handle, X.UC_CTL_TLB_FLUSH | 1 << 30)

    def forget_code(self, frame: int) -> None:
        """Drops translated code of one page frame whose bytes change behind the engine's back."""
        self.ram64[(_PT >> 3) + 511] = frame << 12 | _P | _W
        lib.uc_context_restore(self._handle, self._ring0)
        self.flush_tlb()
        lib.uc_ctl(self._handle, X.UC_CTL_TB_REMOVE_CACHE | 2 << 26 | 1 << 30,
                    ctypes.c_uint64(_KMAP), ctypes.c_uint64(_KMAP + 4096))
        self.loaded_tables = 0

    # ---- watching -----------------------------------------------------------------------------------------------
    def watch_blocks(self, listener: Callable[[int], None] | None) -> None:
        """listener(address) is called whenever a block begins at a watched address (and, rarely, at others: the
        listener has to look); None: no more. It runs inside the engine: it may read registers (register()), and must
        not run anything. What it costs is host time only: the blocks, and so the clock, are the same.
        """
        self._listener = listener
        if not self._watched:
            self._watched = bytearray(1 << _WATCH_BITS - 3)
        if self._native:
            at = _PIECES + _BLOCK_PIECE * _PIECE_SIZE
            piece = self._block_hook(listener is not None)
            self._page[at : at + len(piece)] = piece

    def watch(self, address: int) -> None:
        """From now on the block that begins there is watched."""
        slot = (address ^ address >> _WATCH_BITS) & _WATCH_MASK
        self._watched[slot >> 3] |= 1 << (slot & 7)

    def register(self, number: int) -> int:
        """A register by Unicorn's number, while code runs: for the listener of watch_blocks()."""
        lib.uc_reg_read(self._handle, number, self._register_at)
        return self._register.value

    # ---- set-up -------------------------------------------------------------------------------------------------
    def _build_ring0(self) -> None:
        """Enough of a ring 0 to enter ring 3 from, once: tables, descriptors, one page of code and stack."""
        ram64 = self.ram64
        ram64[(_PML4 >> 3) + 256] = _PDPT | _P | _W
        ram64[_PDPT >> 3] = _PD | _P | _W
        ram64[_PD >> 3] = _PT | _P | _W
        for i in range(ENGINE_RESERVED >> 12):
            ram64[(_PT >> 3) + i] = i << 12 | _P | _W
        # a user page for the start-up probes, at 4 MB
        ram64[_PML4 >> 3] = _PROBE_PT3 | _P | _W | _U
        ram64[_PROBE_PT3 >> 3] = _PROBE_PT2 | _P | _W | _U
        ram64[(_PROBE_PT2 >> 3) + 2] = _PROBE_PT1 | _P | _W | _U
        ram64[_PROBE_PT1 >> 3] = _PROBE | _P | _W | _U
        descriptors = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF,       # null, kernel code, kernel data
                       0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)   # user code32, data, code64
        for i, descriptor in enumerate(descriptors):
            ram64[(_GDT >> 3) + i] = descriptor
        uc = self._handle
        X.reg_write(uc, X.UC_X86_REG_CR3, _PML4)
        X.reg_write(uc, X.UC_X86_REG_CR4, 0x6B4)         # TSD PSE PAE MCE PGE OSFXSR OSXMMEXCPT
        X.reg_write(uc, X.UC_X86_REG_MSR, X.Msr(0xC0000080, 0xD01))        # EFER: SCE LME LMA NXE
        X.reg_write(uc, X.UC_X86_REG_CR0, 0x80050033)
        X.reg_write(uc, X.UC_X86_REG_GDTR, X.Mmr(0, KERNEL_BASE + _GDT, 0xFF, 0))
        X.reg_write(uc, X.UC_X86_REG_CS, 8)
        X.reg_write(uc, X.UC_X86_REG_FPCW, 0x37F)        # as FNINIT: 64-bit precision, exceptions masked
        X.reg_write(uc, X.UC_X86_REG_MXCSR, 0x1F80)
        image = X.context_image(uc)
        self._size = len(image)
        self._ring0 = ctypes.create_string_buffer(image, self._size)

    def _install_hooks(self) -> None:
        args = self.args

        def pointer(function: Any) -> int:
            return ctypes.cast(function, ctypes.c_void_p).value or 0

        args[_ARG_UC] = ctypes.cast(self._handle, ctypes.c_void_p).value or 0
        args[_ARG_RESTORE] = pointer(lib.uc_context_restore)
        args[_ARG_START] = pointer(lib.uc_emu_start)
        args[_ARG_SAVE] = pointer(lib.uc_context_save)
        args[_ARG_REG_READ] = pointer(lib.uc_reg_read)
        stop = pointer(lib.uc_emu_stop)
        hooks: list[Any] = self._native_hooks(stop) if self._native else self._python_hooks()
        on_syscall, on_exception, on_invalid, on_block, on_privileged, on_port = hooks
        for kind, callback, extra in (
            (X.UC_HOOK_INSN, on_syscall, X.UC_X86_INS_SYSCALL), (X.UC_HOOK_INTR, on_exception, None),
            (X.UC_HOOK_INSN_INVALID, on_invalid, None), (X.UC_HOOK_BLOCK, on_block, None),
            # The engine would let ring 3 do these.
            (X.UC_HOOK_INSN, on_privileged, X.UC_X86_INS_SYSENTER), (X.UC_HOOK_INSN, on_port, X.UC_X86_INS_IN),
            (X.UC_HOOK_INSN, on_port, X.UC_X86_INS_OUT),
        ):
            hook = ctypes.c_size_t()
            everywhere = (ctypes.c_uint64(1), ctypes.c_uint64(0))
            arguments: list[Any] = [self._handle, ctypes.byref(hook), kind, callback, None, *everywhere]
            if extra is not None:
                arguments.append(ctypes.c_int(extra))
            status = lib.uc_hook_add(*arguments)
            if status:
                raise EngineError(f"uc_hook_add: {status}")

    def _native_hooks(self, stop: int) -> list[Any]:
        base = self._base
        trap = base + _ARG_TRAP * 8
        jump = self._jump = b"\x48\xb8" + struct.pack("<Q", stop) + b"\xff\xe0"    # mov rax, uc_emu_stop; jmp rax

        def load(address: int) -> bytes:
            return b"\x48\xb8" + struct.pack("<Q", address)                      # mov rax, address

        # The first trap counts: what follows IN or OUT in the same block still runs, and may trap too.
        unless_noted = load(trap) + b"\x81\x38" + struct.pack("<I", VECTOR_BUDGET)   # cmp dword [rax], BUDGET

        def note(vector: int, end: bytes) -> bytes:
            return unless_noted + b"\x75\x06\xc7\x00" + struct.pack("<I", vector) + end   # jne +6; mov [rax], vector

        save_rip = (b"\x57\xbe" + struct.pack("<I", X.UC_X86_REG_RIP)                # push rdi; mov esi, RIP
                    + b"\x48\xba" + struct.pack("<Q", base + _ARG_PORT_RIP * 8)      # mov rdx, where it goes
                    + load(self.args[_ARG_REG_READ]) + b"\xff\xd0\x5f")             # call uc_reg_read; pop rdi
        pieces = [
            note(VECTOR_SYSCALL, jump),
            unless_noted + b"\x75\x02\x89\x30" + jump,                             # jne +2; mov [rax], esi
            note(6, b"\x31\xc0\xc3"),                                              # xor eax, eax; ret
            self._block_hook(False),
            note(13, jump),
            save_rip + note(13, jump),
            _RUN,
        ]
        assert pieces.index(self._block_hook(False)) == _BLOCK_PIECE
        at, addresses = _PIECES, []
        for piece in pieces:
            self._page[at : at + len(piece)] = piece
            addresses.append(base + at)
            at += _PIECE_SIZE
        run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(addresses.pop())
        block = ctypes.c_void_p(base)
        self._run = functools.partial(run, block)
        return [ctypes.c_void_p(a) for a in addresses]

    def _block_hook(self, watching: bool) -> bytes:
        """Counts a block; then, if its address may be a watched one, calls the listener."""
        count = b"\x48\xb8" + struct.pack("<Q", self._base + _ARG_BUDGET * 8) + b"\x48\xff\x08"  # dec qword [budget]
        if not watching:
            return count + b"\x78\x01\xc3" + self._jump                            # js +1; ret
        if self._on_watched is None:
            self._bitmap = (ctypes.c_char * len(self._watched)).from_buffer(self._watched)

            def on_watched(_uc: int, address: int, _size: int, _data: int) -> None:
                if self._listener is not None:
                    self._listener(address)

            pointer = ctypes.c_void_p
            self._on_watched = ctypes.CFUNCTYPE(None, pointer, ctypes.c_uint64, ctypes.c_uint32, pointer)(on_watched)
        look = (
            b"\x48\x89\xf1\x48\xc1\xe9" + bytes((_WATCH_BITS,))                  # mov rcx, rsi; shr rcx, 20
            + b"\x31\xf1\x81\xe1" + struct.pack("<I", _WATCH_MASK)                # xor ecx, esi; and ecx, mask
            + b"\x48\xb8" + struct.pack("<Q", ctypes.addressof(self._bitmap))     # mov rax, bitmap
            + b"\x0f\xa3\x08\x72\x01\xc3"                                         # bt [rax], ecx; jc +1; ret
            + b"\x48\xb8" + struct.pack("<Q", ctypes.cast(self._on_watched, ctypes.c_void_p).value or 0)
            + b"\xff\xe0"                                                         # mov rax, on_watched; jmp rax
        )
        return count + b"\x78" + bytes((len(look),)) + look + self._jump           # js: stop

    def _python_hooks(self) -> list[Any]:
        """The same four hooks for hosts that are not x86-64."""
        handle, args, budget = self._handle, self.args, self._budget

        def note(vector: int) -> None:
            if args[_ARG_TRAP] == VECTOR_BUDGET:
                args[_ARG_TRAP] = vector
            lib.uc_emu_stop(handle)

        def on_syscall(_uc: int, _data: int) -> None:
            note(VECTOR_SYSCALL)

        def on_exception(_uc: int, number: int, _data: int) -> None:
            note(number)

        def on_invalid(_uc: int, _data: int) -> int:
            note(6)
            return 0

        def on_block(_uc: int, address: int, _size: int, _data: int) -> None:
            budget[_ARG_BUDGET] -= 1
            if budget[_ARG_BUDGET] < 0:
                lib.uc_emu_stop(handle)
            elif self._listener is not None:
                slot = (address ^ address >> _WATCH_BITS) & _WATCH_MASK
                if self._watched[slot >> 3] >> (slot & 7) & 1:
                    self._listener(address)

        pointer, number, word = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        def on_privileged(_uc: int, _data: int) -> None:
            note(13)

        def on_port(_uc: int, *_arguments: int) -> int:
            rip = ctypes.c_uint64()
            lib.uc_reg_read(handle, X.UC_X86_REG_RIP, ctypes.byref(rip))
            args[_ARG_PORT_RIP] = rip.value
            note(13)
            return 0

        callbacks = [
            ctypes.CFUNCTYPE(None, pointer, pointer)(on_syscall),
            ctypes.CFUNCTYPE(None, pointer, number, pointer)(on_exception),
            ctypes.CFUNCTYPE(ctypes.c_bool, pointer, pointer)(on_invalid),
            ctypes.CFUNCTYPE(None, pointer, word, number, pointer)(on_block),
            ctypes.CFUNCTYPE(None, pointer, pointer)(on_privileged),
            ctypes.CFUNCTYPE(number, pointer, number, number, pointer, pointer)(on_port),
        ]
        self._keep += callbacks
        eflags = ctypes.c_uint64()

        def run() -> int:
            context = ctypes.c_void_p(args[_ARG_CONTEXT])
            lib.uc_context_restore(handle, context)
            rip = ctypes.c_uint64.from_address(args[_ARG_CONTEXT] + args[_ARG_RIP_OFFSET])
            args[_ARG_ERROR] = lib.uc_emu_start(handle, rip, word(0), word(0), ctypes.c_size_t(0))
            lib.uc_context_save(handle, context)
            lib.uc_reg_read(handle, X.UC_X86_REG_EFLAGS, ctypes.byref(eflags))
            args[_ARG_EFLAGS] = eflags.value
            return args[_ARG_TRAP]

        self._run = run
        return callbacks

    def _discover(self) -> None:
        """Enters ring 3 once, and finds out where the words lie that are no registers."""
        uc, ram = self._handle, self._ram
        registers = (X.UC_X86_REG_RAX, X.UC_X86_REG_RCX, X.UC_X86_REG_RDX, X.UC_X86_REG_RBX, X.UC_X86_REG_RSP,
                     X.UC_X86_REG_RBP, X.UC_X86_REG_RSI, X.UC_X86_REG_RDI, X.UC_X86_REG_R8, X.UC_X86_REG_R9,
                     X.UC_X86_REG_R10, X.UC_X86_REG_R11, X.UC_X86_REG_R12, X.UC_X86_REG_R13, X.UC_X86_REG_R14,
                     X.UC_X86_REG_R15, X.UC_X86_REG_RIP)
        marks = [0x5A17_0000_1100 + i for i in range(len(registers))]
        for register, mark in zip(registers, marks, strict=True):
            X.reg_write(uc, register, mark)
        image = X.context_image(uc)
        self.offset_regs = image.find(struct.pack(f"<{len(marks)}Q", *marks))
        if self.offset_regs < 0:
            raise EngineError("the registers are not where this engine's context should have them")
        self.args[_ARG_RIP_OFFSET] = self.offset_regs + 16 * 8
        X.reg_write(uc, X.UC_X86_REG_CR2, 0x5A17_0000_2200)
        self.offset_cr2 = X.context_image(uc).find(struct.pack("<Q", 0x5A17_0000_2200))
        self.offset_cr3 = self.offset_cr2 + 8
        image = X.context_image(uc)
        if self.offset_cr2 < 0 or image[self.offset_cr3 : self.offset_cr3 + 8] != struct.pack("<Q", _PML4):
            raise EngineError("CR2 and CR3 are not where this engine's context should have them")

        # iretq to ring 3, to an address that faults at once: that context is every task's template.
        for register in registers:
            X.reg_write(uc, register, 0)
        ram[_CODE : _CODE + 2] = b"\x48\xcf"
        struct.pack_into("<5Q", ram, _STACK - 40, 0x10, 0x2B, 0x202, 0x400FF0, 0x23)
        X.reg_write(uc, X.UC_X86_REG_RSP, KERNEL_BASE + _STACK - 40)
        X.reg_write(uc, X.UC_X86_REG_RIP, KERNEL_BASE + _CODE)
        self.offset_exception = self.offset_error_code = 0
        probe = CpuContext(self, X.context_image(uc))
        vector = self.run(probe, 1 << 40)
        if vector != 14:
            raise EngineError(f"ring 3 could not be entered: vector {vector}, error {self.error()}")
        image = probe.image()
        self.offset_exception = next(_words(image, 14))
        probe.clear_exception()
        probe.regs[:] = memoryview(bytes(17 * 8)).cast("Q")
        self._template = probe.image()

        def faulting(code: str) -> bytes:
            probe.load(self._template)
            raw = bytes.fromhex(code)
            ram[_PROBE : _PROBE + len(raw)] = raw
            X.control(uc, X.UC_CTL_TB_FLUSH)
            probe.regs[16] = 0x400000
            if self.run(probe, 1 << 40) != 14:
                raise EngineError(f"probe {code} did not fault")
            return probe.image()

        images = [faulting("488b042500005000"), faulting("4889042500005000"), faulting("b800006000ffe0"),
                  faulting("48b80000000000" + "80ffff488b00")]
        self.offset_error_code = next(
            o for o in _words(images[0], 4)
            if [struct.unpack_from("<I", image, o)[0] for image in images[1:]] == [6, 0x14, 5])
        self.ram64[_PML4 >> 3] = 0              # the probe page goes
        X.control(uc, X.UC_CTL_TB_FLUSH)
        self.flush_tlb()

    # ---- slow paths ---------------------------------------------------------------------------------------------
    def context_read(self, address: int, register: int, size: int) -> int:
        buffer = ctypes.create_string_buffer(max(size, 16))
        lib.uc_context_reg_read(ctypes.c_void_p(address), register, buffer)
        return int.from_bytes(buffer.raw[:size], "little")

    def context_write(self, address: int, register: int, value: int, size: int) -> None:
        buffer = ctypes.create_string_buffer(value.to_bytes(size, "little"), max(size, 16))
        lib.uc_context_reg_write(ctypes.c_void_p(address), register, buffer)

    def _build_fx(self) -> None:
        """One batch moves the FPU and SSE registers between a context and an FXSAVE image (0.7 us instead of 50)."""
        self._fx = ctypes.create_string_buffer(512 + 8)        # the image, and behind it the full tag word
        base = ctypes.addressof(self._fx)
        places = [(X.UC_X86_REG_FPCW, 0), (X.UC_X86_REG_FPSW, 2), (X.UC_X86_REG_MXCSR, 24), (X.UC_X86_REG_FPTAG, 512)]
        places += [(X.UC_X86_REG_ST0 + i, 32 + 16 * i) for i in range(8)]
        places += [(X.UC_X86_REG_XMM0 + i, 160 + 16 * i) for i in range(16)]
        self._fx_count = len(places)
        self._fx_registers = (ctypes.c_int * len(places))(*[register for register, _ in places])
        self._fx_pointers = (ctypes.c_void_p * len(places))(*[base + offset for _, offset in places])

    def fxsave(self, address: int) -> bytes:
        fx = self._fx
        lib.uc_context_reg_read_batch(ctypes.c_void_p(address), self._fx_registers, self._fx_pointers, self._fx_count)
        raw = fx.raw
        tags = raw[512] | raw[513] << 8
        abridged = 0xFF if not tags else sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3)
        if tags == 0xFFFF:
            abridged = 0
        return raw[:4] + bytes((abridged,)) + bytes(19) + raw[24:28] + b"\xff\xff\0\0" + raw[32:416] + bytes(96)

    def fxrstor(self, address: int, area: bytes) -> None:
        abridged = area[4]
        tags = sum((0 if abridged >> i & 1 else 3) << 2 * i for i in range(8)) if abridged else 0xFFFF
        self._fx.raw = area[:512] + tags.to_bytes(8, "little")
        lib.uc_context_reg_write_batch(ctypes.c_void_p(address), self._fx_registers, self._fx_pointers, self._fx_count)
