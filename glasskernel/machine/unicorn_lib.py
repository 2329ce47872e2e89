"""The Unicorn library by its C interface: what cpu.py calls, and the numbers of unicorn/unicorn.h and unicorn/x86.h.

Why not the package's Python binding: importing it takes 12 ms, an eighth of the time to the first user instruction (it
looks for the library with importlib.resources and imports the constants of ten architectures), and its calls are slow.
The package still brings the library: it is looked for where the binding looks first.
Invariant: the constants are the binding's (tests/machine/test_unicorn_lib.py).
"""
from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from typing import Any

UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL = 4, 8, 7
UC_HOOK_INTR, UC_HOOK_INSN, UC_HOOK_BLOCK, UC_HOOK_INSN_INVALID = 1, 2, 8, 1 << 14
UC_CTL_UC_USE_EXITS, UC_CTL_CPU_MODEL, UC_CTL_TB_REMOVE_CACHE, UC_CTL_TB_FLUSH, UC_CTL_TLB_FLUSH = 4, 7, 9, 10, 11
UC_CTL_IO_WRITE = 1
UC_CPU_X86_WESTMERE = 16

UC_X86_REG_CS, UC_X86_REG_EFLAGS, UC_X86_REG_FPSW = 11, 25, 31
UC_X86_REG_RAX, UC_X86_REG_RBP, UC_X86_REG_RBX, UC_X86_REG_RCX, UC_X86_REG_RDI, UC_X86_REG_RDX = range(35, 41)
UC_X86_REG_RIP, UC_X86_REG_RSI, UC_X86_REG_RSP = 41, 43, 44
UC_X86_REG_CR0, UC_X86_REG_CR2, UC_X86_REG_CR3, UC_X86_REG_CR4 = 50, 52, 53, 54
(UC_X86_REG_R8, UC_X86_REG_R9, UC_X86_REG_R10, UC_X86_REG_R11, UC_X86_REG_R12, UC_X86_REG_R13, UC_X86_REG_R14,
 UC_X86_REG_R15) = range(106, 114)
UC_X86_REG_ST0, UC_X86_REG_XMM0 = 114, 122
UC_X86_REG_GDTR, UC_X86_REG_FPCW, UC_X86_REG_FPTAG, UC_X86_REG_MSR, UC_X86_REG_MXCSR = 243, 246, 247, 248, 249
UC_X86_REG_FS_BASE, UC_X86_REG_GS_BASE = 250, 251
UC_X86_INS_IN, UC_X86_INS_OUT, UC_X86_INS_SYSCALL, UC_X86_INS_SYSENTER = 218, 500, 699, 700

_VERSION = (2, 1)


class EngineError(Exception):
    """The engine cannot be used, or is not the one that this code was written for."""


class Mmr(ctypes.Structure):
    """uc_x86_mmr"""

    _fields_ = (("selector", ctypes.c_uint16), ("base", ctypes.c_uint64), ("limit", ctypes.c_uint32),
                ("flags", ctypes.c_uint32))


class Msr(ctypes.Structure):
    """uc_x86_msr"""

    _fields_ = (("rid", ctypes.c_uint32), ("value", ctypes.c_uint64))


def _load() -> Any:
    """The library, with the types of its functions. Raises ImportError if it is not installed."""
    name = "libunicorn.2.dylib" if sys.platform == "darwin" else "libunicorn.so.2"
    spec = find_spec("unicorn")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for path in (os.environ.get("LIBUNICORN_PATH"), *(os.path.join(folder, "lib") for folder in folders)):
        if path and os.path.exists(os.path.join(path, name)):
            lib = ctypes.CDLL(os.path.join(path, name))
            break
    else:
        from unicorn.unicorn_py3.unicorn import uclib as lib  # it knows more places, or says what is wrong
    handle, pointer, number, word = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
    for name, result, *arguments in (
        ("uc_open", number, number, number, pointer), ("uc_close", number, handle),
        ("uc_version", ctypes.c_uint, pointer, pointer),
        ("uc_ctl", number, handle, number),
        ("uc_mem_map_ptr", number, handle, word, word, ctypes.c_uint32, pointer),
        ("uc_hook_add", number, handle, pointer, number, pointer, pointer, word, word),
        ("uc_emu_start", number, handle, word, word, word, ctypes.c_size_t), ("uc_emu_stop", number, handle),
        ("uc_reg_read", number, handle, number, pointer), ("uc_reg_write", number, handle, number, pointer),
        ("uc_context_alloc", number, handle, pointer), ("uc_context_free", number, pointer),
        ("uc_context_size", ctypes.c_size_t, handle),
        ("uc_context_save", number, handle, pointer), ("uc_context_restore", number, handle, pointer),
        ("uc_context_reg_read", number, pointer, number, pointer),
        ("uc_context_reg_write", number, pointer, number, pointer),
        ("uc_context_reg_read_batch", number, pointer, pointer, pointer, number),
        ("uc_context_reg_write_batch", number, pointer, pointer, pointer, number),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


lib = _load()


def check(what: str, status: int) -> None:
    """Raises EngineError for an answer that is not UC_ERR_OK."""
    if status:
        raise EngineError(f"{what}: unicorn's error {status}")


def open_engine(cpu_model: int) -> ctypes.c_void_p:
    """A 64-bit x86 engine. Whoever has it calls lib.uc_close() in the end. Raises EngineError."""
    version = lib.uc_version(None, None)
    if (version >> 24, version >> 16 & 0xFF) != _VERSION:
        raise EngineError(f"Unicorn {version >> 24}.{version >> 16 & 0xFF} instead of {_VERSION[0]}.{_VERSION[1]}")
    handle = ctypes.c_void_p()
    check("uc_open", lib.uc_open(UC_ARCH_X86, UC_MODE_64, ctypes.byref(handle)))
    control(handle, UC_CTL_CPU_MODEL, ctypes.c_int(cpu_model))
    return handle


def control(handle: ctypes.c_void_p, what: int, *arguments: object) -> None:
    """uc_ctl() in its writing form. Raises EngineError."""
    check(f"uc_ctl({what})", lib.uc_ctl(handle, what | len(arguments) << 26 | UC_CTL_IO_WRITE << 30, *arguments))


def reg_write(handle: ctypes.c_void_p, register: int, value: int | Mmr | Msr) -> None:
    """A register of up to 64 bits, GDTR or an MSR."""
    raw = ctypes.c_uint64(value) if isinstance(value, int) else value
    check("uc_reg_write", lib.uc_reg_write(handle, register, ctypes.byref(raw)))


def context_image(handle: ctypes.c_void_p) -> bytes:
    """The whole state of the CPU, as uc_context_save() writes it."""
    context = ctypes.c_void_p()
    check("uc_context_alloc", lib.uc_context_alloc(handle, ctypes.byref(context)))
    try:
        check("uc_context_save", lib.uc_context_save(handle, context))
        return ctypes.string_at(context, lib.uc_context_size(handle))
    finally:
        lib.uc_context_free(context)
