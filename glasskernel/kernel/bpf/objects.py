"""Maps and programs as objects: numbers, references, descriptors.

Linux: kernel/bpf/syscall.c, its first half (5.3). Same: IDs from 1 on in cycles, two counters of a map (holders of any
    kind; descriptors and pinned files), what fdinfo shows, frozen maps, rights of a descriptor.
Owns: BpfState (kernel.bpf): every map, program and BTF by ID; locked pages by user.
Invariants: an object has an ID while its refcnt is not 0. What a program uses, it holds.
Context: task; bpf_prog_put() and bpf_map_put() do not sleep.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.file import fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import FMODE_READ, FMODE_WRITE, O_CLOEXEC, O_RDONLY, O_RDWR, O_WRONLY, FileOperations
from glasskernel.kernel.bpf.memory import bpf_uncharge_memlock, forget_pages
from glasskernel.kernel.bpf.types import (
    BPF_F_RDONLY,
    BPF_F_WRONLY,
    BPF_MAP_TYPE_PROG_ARRAY,
    BpfMap,
    BpfProg,
)
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.vmalloc import vfree

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

BPF_MAX_REFCNT = 32768


class BpfState:
    """kernel.bpf: made by the first bpf(2). next_id: per table. map_at: what a program's pointers to maps mean.

    pages: kernel/bpf/memory.py. locked_vm: pages by uid (user_struct.locked_vm as far as BPF fills it).
    """

    __slots__ = ("btf_idr", "locked_vm", "map_at", "map_idr", "next_id", "pages", "prandom", "prog_idr")

    def __init__(self, seed: int) -> None:
        self.map_idr: dict[int, BpfMap] = {}
        self.prog_idr: dict[int, BpfProg] = {}
        self.btf_idr: dict[int, Any] = {}
        self.next_id = [1, 1, 1]                   # of maps, programs, BTFs
        self.map_at: dict[int, BpfMap] = {}
        self.pages: dict[int, int] = {}
        self.locked_vm: dict[int, int] = {}
        self.prandom = (seed << 32 ^ 0x2545_F491_4F6C_DD1D) & 0xFFFF_FFFF_FFFF_FFFF or 1     # bpf_user_rnd_u32()


@notrace
def bpf_state(kernel: Kernel) -> BpfState:
    """kernel.bpf, made if nobody has used BPF yet."""
    state: BpfState | None = kernel.bpf
    if state is None:
        state = kernel.bpf = BpfState(kernel.machine.seed)
    return state


@notrace
def idr_alloc_cyclic(state: BpfState, table: dict[int, Any], which: int, thing: Any) -> int:
    number = state.next_id[which]
    state.next_id[which] = number + 1
    table[number] = thing
    return number


# ---- maps --------------------------------------------------------------------------------------------------------
def bpf_map_alloc_id(map: BpfMap) -> None:
    state = bpf_state(map.kernel)
    map.id = idr_alloc_cyclic(state, state.map_idr, 0, map)
    state.map_at[map.kaddr] = map


def bpf_map_free_id(map: BpfMap) -> None:
    """Maps inside others' templates have none."""
    if map.id:
        state = bpf_state(map.kernel)
        del state.map_idr[map.id]
        map.id = 0


def bpf_map_inc(map: BpfMap, uref: bool) -> BpfMap:
    """One more holder. Raises EBUSY for too many."""
    if map.refcnt >= BPF_MAX_REFCNT:
        raise KernelError(EBUSY)
    map.refcnt += 1
    if uref:
        map.usercnt += 1
    return map


def bpf_map_put_uref(map: BpfMap) -> None:
    map.usercnt -= 1
    if not map.usercnt:
        map.ops.map_release(map)


def bpf_map_put(map: BpfMap) -> None:
    """The last holder frees the map: by a worker in Linux, since a run might still look at it; here none can."""
    map.refcnt -= 1
    if not map.refcnt:
        bpf_map_free_id(map)
        bpf_map_free_deferred(map)


def bpf_map_put_with_uref(map: BpfMap) -> None:
    bpf_map_put_uref(map)
    bpf_map_put(map)


def bpf_map_free_deferred(map: BpfMap) -> None:
    state = bpf_state(map.kernel)
    state.map_at.pop(map.kaddr, None)
    bpf_uncharge_memlock(map.kernel, map.user, map.memory_pages)
    if map.btf is not None:
        map.btf.put()
    map.ops.map_free(map)


def bpf_map_release(inode: Inode, file: File) -> None:
    """->release()"""
    bpf_map_put_with_uref(file.private_data)


@notrace
def map_get_sys_perms(map: BpfMap, file: File) -> int:
    """FMODE_* of what bpf(2) may do with a map through a descriptor."""
    mode = file.f_mode & (FMODE_READ | FMODE_WRITE)
    return mode & ~FMODE_WRITE if map.frozen else mode


def bpf_map_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    map: BpfMap = file.private_data
    text = (b"map_type:\t%u\nkey_size:\t%u\nvalue_size:\t%u\nmax_entries:\t%u\nmap_flags:\t%#x\nmemlock:\t%u\n"
            b"map_id:\t%u\nfrozen:\t%u\n" % (map.map_type, map.key_size, map.value_size, map.max_entries, map.map_flags,
                                             map.memory_pages << 12, map.id, map.frozen))
    if map.map_type == BPF_MAP_TYPE_PROG_ARRAY and map.owner_prog_type:
        text += b"owner_prog_type:\t%u\nowner_jited:\t0\n" % map.owner_prog_type
    return text


bpf_map_fops = FileOperations(release=bpf_map_release, show_fdinfo=bpf_map_show_fdinfo)


def bpf_get_file_flag(flags: int) -> int:
    """O_* for a map's flags. Raises EINVAL."""
    if flags & BPF_F_RDONLY and flags & BPF_F_WRONLY:
        raise KernelError(EINVAL)
    return O_RDONLY if flags & BPF_F_RDONLY else O_WRONLY if flags & BPF_F_WRONLY else O_RDWR


def bpf_map_new_fd(map: BpfMap, flags: int) -> int:
    """A descriptor that takes over the caller's two references. Raises EMFILE, ENFILE."""
    return anon_inode_getfd(b"bpf-map", bpf_map_fops, map, flags | O_CLOEXEC)


def __bpf_map_get(file: File) -> BpfMap:
    """Raises EINVAL: that is no map."""
    if file.f_op is not bpf_map_fops:
        raise KernelError(EINVAL)
    map: BpfMap = file.private_data
    return map


def bpf_map_get_with_uref(ufd: int) -> BpfMap:
    """The map behind a descriptor, with both references. Raises EBADF, EINVAL, EBUSY."""
    file = fget(ufd)
    try:
        return bpf_map_inc(__bpf_map_get(file), True)
    finally:
        fput(file)


# ---- programs ----------------------------------------------------------------------------------------------------
def bpf_prog_alloc_id(prog: BpfProg) -> None:
    state = bpf_state(prog.kernel)
    prog.id = idr_alloc_cyclic(state, state.prog_idr, 1, prog)


def bpf_prog_free_id(prog: BpfProg) -> None:
    if prog.id:
        del bpf_state(prog.kernel).prog_idr[prog.id]
        prog.id = 0


def bpf_prog_add(prog: BpfProg, count: int) -> BpfProg:
    """Raises EBUSY for too many holders."""
    if prog.refcnt + count > BPF_MAX_REFCNT:
        raise KernelError(EBUSY)
    prog.refcnt += count
    return prog


def bpf_prog_inc(prog: BpfProg) -> BpfProg:
    return bpf_prog_add(prog, 1)


def bpf_prog_put(prog: BpfProg) -> None:
    """The last holder frees the program, and what it holds. Context: any."""
    prog.refcnt -= 1
    if not prog.refcnt:
        bpf_prog_free_id(prog)
        __bpf_prog_put_rcu(prog)


def __bpf_prog_put_rcu(prog: BpfProg) -> None:
    free_used_maps(prog)
    bpf_uncharge_memlock(prog.kernel, prog.user, prog.memory_pages)
    if prog.btf is not None:
        prog.btf.put()
    bpf_prog_free(prog)


def free_used_maps(prog: BpfProg) -> None:
    for map in prog.used_maps:
        bpf_map_put(map)
    prog.used_maps = []


def bpf_prog_free(prog: BpfProg) -> None:
    """The memory that the instructions lie in."""
    if prog.kaddr:
        forget_pages(prog.kernel, prog.kaddr)
        vfree(prog.kernel, prog.kaddr)
        prog.kaddr = 0


def bpf_prog_release(inode: Inode, file: File) -> None:
    """->release()"""
    bpf_prog_put(file.private_data)


def bpf_prog_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    prog: BpfProg = file.private_data
    return (b"prog_type:\t%u\nprog_jited:\t0\nprog_tag:\t%s\nmemlock:\t%u\nprog_id:\t%u\nrun_time_ns:\t%u\n"
            b"run_cnt:\t%u\n"
            % (prog.type, prog.tag.hex().encode(), prog.memory_pages << 12, prog.id, prog.run_time_ns, prog.run_cnt))


bpf_prog_fops = FileOperations(release=bpf_prog_release, show_fdinfo=bpf_prog_show_fdinfo)


def bpf_prog_new_fd(prog: BpfProg) -> int:
    """A descriptor that takes over the caller's reference. Raises EMFILE, ENFILE."""
    return anon_inode_getfd(b"bpf-prog", bpf_prog_fops, prog, O_RDWR | O_CLOEXEC)


def bpf_prog_get_type(ufd: int, type: int) -> BpfProg:
    """The program behind a descriptor, with a reference. Raises EBADF; EINVAL: no program, or not of this type."""
    prog = bpf_prog_get(ufd)
    if prog.type != type:
        bpf_prog_put(prog)
        raise KernelError(EINVAL)
    return prog


def bpf_prog_get(ufd: int) -> BpfProg:
    """bpf_prog_get_type() of any type."""
    file = fget(ufd)
    try:
        if file.f_op is not bpf_prog_fops:
            raise KernelError(EINVAL)
        return bpf_prog_inc(file.private_data)
    finally:
        fput(file)
