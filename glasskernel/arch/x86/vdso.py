"""The vDSO: clock reads that need no system call, as a shared object the kernel maps into every process.

Linux: arch/x86/entry/vdso/ (vclock_gettime.c, vgetcpu.c, vdso.lds.S), lib/vdso/gettimeofday.c.
Same: symbols, version, soname; which clocks are served here; NULL arguments.
Differs: the clock is the TSC itself: RDTSC traps and reads one tick a nanosecond of virtual time since
    boot, so there is no multiplier and no sequence count (every value in the vvar page is one aligned
    word). COARSE clocks ask the kernel. time() is exact where Linux gives the second of the last tick.
    getcpu asks the kernel: RDTSCP and LSL would need one TSC_AUX or GDT for each virtual CPU.
Owns: the machine code below and the layout of the vvar page, which lies directly below the image.
Invariants: the code touches no stack (the unwind information says so for all of it) and holds no absolute
    address.
"""

from __future__ import annotations

import struct
from typing import Final

from glasskernel.arch.x86.vdso_image import TEXT_OFFSET, build_image
from glasskernel.lib.types import notrace

VVAR_SIZE: Final = 4096

# The vvar page: u64 offset[12], added to the TSC to give clock number i; then struct timezone.
NR_CLOCKS: Final = 12
VVAR_TIMEZONE: Final = 8 * NR_CLOCKS

# One instruction a line: its bytes, then what they say. "<vvar+N>" is the 32-bit distance to that byte of
# the vvar page. 0x893 is the set of clocks that are TSC + offset: REALTIME, MONOTONIC, MONOTONIC_RAW,
# BOOTTIME, TAI.
CODE: Final = {
    # int clock_gettime(clockid_t clock, struct timespec *ts)
    "clock_gettime": """
        83 ff 0b                    | cmp   edi, 11             # also catches negative (process, fd) clocks
        77 34                       | ja    ask
        b8 93 08 00 00              | mov   eax, 0x893
        0f a3 f8                    | bt    eax, edi
        73 2a                       | jnc   ask                 # CPU time, COARSE, ALARM
        0f 31                       | rdtsc
        48 c1 e2 20                 | shl   rdx, 32
        48 09 d0                    | or    rax, rdx
        48 8d 0d <vvar+0>           | lea   rcx, [rip + vvar.offset]
        89 ff                       | mov   edi, edi            # the upper half is not part of the argument
        48 03 04 f9                 | add   rax, [rcx + rdi*8]
        31 d2                       | xor   edx, edx
        b9 00 ca 9a 3b              | mov   ecx, 1000000000
        48 f7 f1                    | div   rcx
        48 89 06                    | mov   [rsi], rax          # tv_sec
        48 89 56 08                 | mov   [rsi + 8], rdx      # tv_nsec
        31 c0                       | xor   eax, eax
        c3                          | ret
        b8 e4 00 00 00              | ask: mov eax, 228         # SYS_clock_gettime
        0f 05                       | syscall
        c3                          | ret""",
    # int gettimeofday(struct timeval *tv, struct timezone *tz); either may be NULL
    "gettimeofday": """
        48 85 ff                    | test  rdi, rdi
        74 2c                       | jz    zone
        0f 31                       | rdtsc
        48 c1 e2 20                 | shl   rdx, 32
        48 09 d0                    | or    rax, rdx
        48 03 05 <vvar+0>           | add   rax, [rip + vvar.offset[CLOCK_REALTIME]]
        31 d2                       | xor   edx, edx
        b9 00 ca 9a 3b              | mov   ecx, 1000000000
        48 f7 f1                    | div   rcx
        48 89 07                    | mov   [rdi], rax          # tv_sec
        89 d0                       | mov   eax, edx
        31 d2                       | xor   edx, edx
        b9 e8 03 00 00              | mov   ecx, 1000
        f7 f1                       | div   ecx
        48 89 47 08                 | mov   [rdi + 8], rax      # tv_usec
        48 85 f6                    | zone: test rsi, rsi
        74 0a                       | jz    done
        48 8b 05 <vvar+96>          | mov   rax, [rip + vvar.timezone]
        48 89 06                    | mov   [rsi], rax          # tz_minuteswest, tz_dsttime
        31 c0                       | done: xor eax, eax
        c3                          | ret""",
    # time_t time(time_t *t); t may be NULL
    "time": """
        0f 31                       | rdtsc
        48 c1 e2 20                 | shl   rdx, 32
        48 09 d0                    | or    rax, rdx
        48 03 05 <vvar+0>           | add   rax, [rip + vvar.offset[CLOCK_REALTIME]]
        31 d2                       | xor   edx, edx
        b9 00 ca 9a 3b              | mov   ecx, 1000000000
        48 f7 f1                    | div   rcx
        48 85 ff                    | test  rdi, rdi
        74 03                       | jz    done
        48 89 07                    | mov   [rdi], rax
        c3                          | done: ret""",
    # int getcpu(unsigned *cpu, unsigned *node, void *unused)
    "getcpu": """
        b8 35 01 00 00              | mov   eax, 309            # SYS_getcpu
        0f 05                       | syscall
        c3                          | ret""",
    # int clock_getres(clockid_t clock, struct timespec *res); res may be NULL
    "clock_getres": """
        83 ff 0b                    | cmp   edi, 11
        77 21                       | ja    ask
        b8 93 08 00 00              | mov   eax, 0x893
        0f a3 f8                    | bt    eax, edi
        73 17                       | jnc   ask
        48 85 f6                    | test  rsi, rsi
        74 0f                       | jz    done
        48 c7 06 00 00 00 00        | mov   qword [rsi], 0      # tv_sec
        48 c7 46 08 01 00 00 00     | mov   qword [rsi + 8], 1  # tv_nsec: hrtimer_resolution
        31 c0                       | done: xor eax, eax
        c3                          | ret
        b8 e5 00 00 00              | ask: mov eax, 229         # SYS_clock_getres
        0f 05                       | syscall
        c3                          | ret""",
}


@notrace
def vvar_pack(
    realtime_offset_ns: int,
    tai_offset_ns: int = 0,
    monotonic_offset_ns: int = 0,
    boottime_offset_ns: int = 0,
    raw_offset_ns: int = 0,
    minuteswest: int = 0,
    dsttime: int = 0,
) -> bytes:
    """The start of the vvar page. An offset is what to add to the TSC to get that clock, in ns.

    tai_offset_ns: TAI minus REALTIME (leap seconds; 0 until adjtimex sets it). minuteswest, dsttime: sys_tz.
    """
    mask = 0xFFFF_FFFF_FFFF_FFFF
    offsets = [0] * NR_CLOCKS
    offsets[0] = realtime_offset_ns & mask  # CLOCK_REALTIME
    offsets[1] = monotonic_offset_ns & mask  # CLOCK_MONOTONIC
    offsets[4] = raw_offset_ns & mask  # CLOCK_MONOTONIC_RAW
    offsets[7] = boottime_offset_ns & mask  # CLOCK_BOOTTIME
    offsets[11] = realtime_offset_ns + tai_offset_ns & mask  # CLOCK_TAI
    return struct.pack(f"<{NR_CLOCKS}Q2i", *offsets, minuteswest, dsttime)


@notrace
def _assemble() -> tuple[bytes, dict[str, tuple[int, int]]]:
    """CODE as bytes, and (offset in the text, size) of each function."""
    text = bytearray()
    functions: dict[str, tuple[int, int]] = {}
    for name, listing in CODE.items():
        text += b"\xcc" * (-len(text) % 16)
        start = len(text)
        for line in listing.strip().splitlines():
            code, place, target = line.partition("|")[0].partition("<vvar+")
            text += bytes.fromhex(code)
            if place:
                following = TEXT_OFFSET + len(text) + 4
                text += struct.pack("<i", int(target.strip(" >")) - VVAR_SIZE - following)
        functions[name] = start, len(text) - start
    return bytes(text), functions


_text, _functions = _assemble()

VDSO_IMAGE: Final[bytes] = build_image(_text, _functions)
"""The shared object, whole pages. Mapped readable and executable, VVAR_SIZE above the vvar page."""

VDSO_SYMBOLS: Final[dict[str, int]] = {
    prefix + name: TEXT_OFFSET + start
    for name, (start, _) in _functions.items()
    for prefix in ("__vdso_", "")
}
"""Offsets in the image."""
