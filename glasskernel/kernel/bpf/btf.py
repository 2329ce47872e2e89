"""BTF: the types of a program's source, for its maps and its functions.

Linux: kernel/bpf/btf.c, include/uapi/linux/btf.h (5.3). Same: the format, what is refused (newer kinds too: libraries
    find out that way what a kernel knows). Gaps: pretty printing of maps in bpffs, loops of types, the log
    of BPF_BTF_LOAD.
Owns: Btf; IDs are kernel.bpf's. Context: task.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import O_CLOEXEC, O_RDWR, FileOperations
from glasskernel.kernel.bpf.objects import bpf_state, idr_alloc_cyclic
from glasskernel.lib.errno import E2BIG, EINVAL, ENOTSUPP, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

BTF_MAGIC, BTF_VERSION = 0xEB9F, 1
BTF_MAX_SIZE, BTF_MAX_TYPE = 16 << 20, 0xFFFFF
(BTF_KIND_UNKN, BTF_KIND_INT, BTF_KIND_PTR, BTF_KIND_ARRAY, BTF_KIND_STRUCT, BTF_KIND_UNION, BTF_KIND_ENUM,
 BTF_KIND_FWD, BTF_KIND_TYPEDEF, BTF_KIND_VOLATILE, BTF_KIND_CONST, BTF_KIND_RESTRICT, BTF_KIND_FUNC,
 BTF_KIND_FUNC_PROTO, BTF_KIND_VAR, BTF_KIND_DATASEC) = range(16)
_EXTRA = {BTF_KIND_INT: (4, 0), BTF_KIND_ARRAY: (12, 0), BTF_KIND_STRUCT: (0, 12), BTF_KIND_UNION: (0, 12),
          BTF_KIND_ENUM: (0, 8), BTF_KIND_FUNC_PROTO: (0, 8), BTF_KIND_VAR: (4, 0), BTF_KIND_DATASEC: (0, 12)}
_ALIASES = (BTF_KIND_TYPEDEF, BTF_KIND_VOLATILE, BTF_KIND_CONST, BTF_KIND_RESTRICT)
_MODIFIERS = (*_ALIASES, BTF_KIND_VAR)
_NAMELESS = (BTF_KIND_PTR, BTF_KIND_ARRAY, BTF_KIND_VOLATILE, BTF_KIND_CONST, BTF_KIND_RESTRICT, BTF_KIND_FUNC_PROTO)
_NAMED = (BTF_KIND_INT, BTF_KIND_FWD, BTF_KIND_TYPEDEF, BTF_KIND_FUNC, BTF_KIND_VAR, BTF_KIND_DATASEC)
_SIZEOF_SPIN_LOCK = 4


class BtfType(NamedTuple):
    """struct btf_type. word: size, or the type it refers to. extra: what follows it."""

    name: bytes
    kind: int
    vlen: int
    kind_flag: bool
    word: int
    extra: bytes


class Btf:
    """struct btf. data: as it was loaded. types[0] is void."""

    __slots__ = ("data", "id", "kernel", "refcnt", "strings", "types")

    def __init__(self, kernel: Kernel, data: bytes) -> None:
        self.kernel = kernel
        self.data = data
        self.id = 0
        self.refcnt = 1
        self.strings = b""
        self.types: list[BtfType] = [BtfType(b"", BTF_KIND_UNKN, 0, False, 0, b"")]

    @notrace
    def put(self) -> None:
        btf_put(self)


def btf_get(btf: Btf) -> Btf:
    btf.refcnt += 1
    return btf


def btf_put(btf: Btf) -> None:
    btf.refcnt -= 1
    if not btf.refcnt and btf.id:
        del bpf_state(btf.kernel).btf_idr[btf.id]


# ---- the format --------------------------------------------------------------------------------------------------
def btf_parse_hdr(data: bytes) -> tuple[bytes, bytes]:
    """(types, strings). Raises EINVAL, ENOTSUPP."""
    if len(data) < 24:
        raise KernelError(EINVAL)
    magic, version, flags, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
    if magic != BTF_MAGIC or hdr_len < 24 or hdr_len > len(data) or any(data[24:hdr_len]):
        raise KernelError(EINVAL)
    if version != BTF_VERSION or flags:
        raise KernelError(ENOTSUPP)
    if type_off & 3 or type_off + type_len > str_off or not type_len or not str_len:
        raise KernelError(EINVAL)
    if str_off != type_off + type_len or hdr_len + str_off + str_len != len(data):
        raise KernelError(EINVAL)                  # no gaps, no unknown sections
    strings = data[hdr_len + str_off :]
    if strings[0] or strings[-1]:
        raise KernelError(EINVAL)
    return data[hdr_len + type_off : hdr_len + type_off + type_len], strings


@notrace
def btf_name(btf: Btf, offset: int) -> bytes:
    """A string. Raises EINVAL."""
    if offset >= len(btf.strings):
        raise KernelError(EINVAL)
    return btf.strings[offset : btf.strings.index(b"\0", offset)]


def btf_check_all_metas(btf: Btf, types: bytes) -> None:
    """Cuts the section into types. Raises EINVAL, E2BIG."""
    at = 0
    while at < len(types):
        if at + 12 > len(types):
            raise KernelError(EINVAL)
        name_off, info, word = struct.unpack_from("<III", types, at)
        kind, vlen, kind_flag = info >> 24 & 31, info & 0xFFFF, bool(info >> 31)
        if info & ~0x9F00FFFF or not BTF_KIND_INT <= kind <= BTF_KIND_DATASEC:
            raise KernelError(EINVAL)
        fixed, each = _EXTRA.get(kind, (0, 0))
        size = fixed + each * vlen
        if at + 12 + size > len(types) or (not each and vlen):
            raise KernelError(EINVAL)
        name = btf_name(btf, name_off)
        found = BtfType(name, kind, vlen, kind_flag, word, types[at + 12 : at + 12 + size])
        _check_meta(btf, found)
        btf.types.append(found)
        at += 12 + size
        if len(btf.types) > BTF_MAX_TYPE:
            raise KernelError(E2BIG)


@notrace
def _check_meta(btf: Btf, found: BtfType) -> None:
    kind = found.kind
    if (found.name and kind in _NAMELESS) or (not found.name and kind in _NAMED):
        raise KernelError(EINVAL)
    if found.kind_flag and kind not in (BTF_KIND_STRUCT, BTF_KIND_UNION, BTF_KIND_FWD):
        raise KernelError(EINVAL)
    if kind == BTF_KIND_INT:
        data = struct.unpack("<I", found.extra)[0]
        bits, offset = data & 0xFF, data >> 16 & 0xFF
        if data >> 28 or bits + offset > min(128, found.word * 8):
            raise KernelError(EINVAL)
    elif kind == BTF_KIND_ENUM and found.word not in (1, 2, 4, 8):
        raise KernelError(EINVAL)
    elif kind == BTF_KIND_FWD and found.word:
        raise KernelError(EINVAL)
    for entry in range(found.vlen):
        name_off = struct.unpack_from("<I", found.extra, entry * _EXTRA[kind][1])[0]
        if kind != BTF_KIND_DATASEC:
            btf_name(btf, name_off)


def btf_check_all_types(btf: Btf) -> None:
    """What types refer to is there, and fits. Raises EINVAL."""
    count = len(btf.types)
    for found in btf.types[1:]:
        refers = []
        if found.kind in (BTF_KIND_PTR, BTF_KIND_FUNC, BTF_KIND_FUNC_PROTO, *_MODIFIERS):
            refers.append(found.word)
        elif found.kind == BTF_KIND_ARRAY:
            refers += struct.unpack_from("<II", found.extra)
        if found.kind in (BTF_KIND_STRUCT, BTF_KIND_UNION, BTF_KIND_FUNC_PROTO, BTF_KIND_DATASEC):
            stride, position = _EXTRA[found.kind][1], 0 if found.kind == BTF_KIND_DATASEC else 4
            refers += [struct.unpack_from("<I", found.extra, n * stride + position)[0] for n in range(found.vlen)]
        if any(number >= count for number in refers):
            raise KernelError(EINVAL)
        if found.kind == BTF_KIND_FUNC and btf.types[found.word].kind != BTF_KIND_FUNC_PROTO:
            raise KernelError(EINVAL)


def btf_parse(kernel: Kernel, data: bytes) -> Btf:
    """Raises EINVAL, E2BIG, ENOTSUPP."""
    if len(data) > BTF_MAX_SIZE:
        raise KernelError(E2BIG)
    btf = Btf(kernel, data)
    types, btf.strings = btf_parse_hdr(data)
    btf_check_all_metas(btf, types)
    btf_check_all_types(btf)
    return btf


# ---- questions ---------------------------------------------------------------------------------------------------
def btf_type_id_size(btf: Btf, number: int) -> tuple[int, int]:
    """(kind, size) of a type without its modifiers. Raises EINVAL."""
    factor = 1
    for _ in range(64):
        if not 0 < number < len(btf.types):
            break
        found = btf.types[number]
        if found.kind in _MODIFIERS:
            number = found.word
        elif found.kind == BTF_KIND_ARRAY:
            element, _index, nelems = struct.unpack("<III", found.extra)
            return BTF_KIND_ARRAY, factor * nelems * btf_type_id_size(btf, element)[1]
        elif found.kind == BTF_KIND_PTR:
            return found.kind, 8
        elif found.kind in (BTF_KIND_INT, BTF_KIND_STRUCT, BTF_KIND_UNION, BTF_KIND_ENUM, BTF_KIND_DATASEC):
            return found.kind, found.word
        else:
            break
    raise KernelError(EINVAL)


def btf_find_spin_lock(btf: Btf, number: int) -> int:
    """Where `struct bpf_spin_lock` lies in a struct; -1: it has none. Raises EINVAL (several), E2BIG."""
    found = btf.types[number]
    if found.kind != BTF_KIND_STRUCT:
        return -1
    offset = -1
    for entry in range(found.vlen):
        _name, member, where = struct.unpack_from("<III", found.extra, entry * 12)
        inner = btf.types[member]
        if inner.kind != BTF_KIND_STRUCT or inner.name != b"bpf_spin_lock" or inner.word != _SIZEOF_SPIN_LOCK:
            continue
        bits = where & 0xFFFFFF if found.kind_flag else where
        if offset != -1 or bits & 31:
            raise KernelError(E2BIG if offset != -1 else EINVAL)
        offset = bits >> 3
    return offset


# ---- descriptors -------------------------------------------------------------------------------------------------
def btf_release(inode: Inode, file: File) -> None:
    """->release()"""
    btf_put(file.private_data)


btf_fops = FileOperations(release=btf_release)


def __btf_new_fd(btf: Btf) -> int:
    return anon_inode_getfd(b"btf", btf_fops, btf, O_RDWR | O_CLOEXEC)


def btf_new_fd(kernel: Kernel, data: bytes) -> int:
    """BPF_BTF_LOAD. Raises EINVAL, E2BIG, ENOTSUPP, EMFILE."""
    btf = btf_parse(kernel, data)
    state = bpf_state(kernel)
    btf.id = idr_alloc_cyclic(state, state.btf_idr, 2, btf)
    try:
        return __btf_new_fd(btf)
    except KernelError:
        btf_put(btf)
        raise


def btf_get_by_fd(fd: int) -> Btf:
    """Raises EBADF, EINVAL."""
    file = fget(fd)
    try:
        if file.f_op is not btf_fops:
            raise KernelError(EINVAL)
        return btf_get(file.private_data)
    finally:
        fput(file)
