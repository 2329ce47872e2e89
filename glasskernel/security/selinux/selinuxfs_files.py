"""Files of selinuxfs that show and change the state of SELinux: enforce, load, policy, status, booleans, the AVC.

Linux: sel_write_enforce(), sel_write_load() ... of security/selinux/selinuxfs.c (5.3). Same: texts, the permission of
    class security that each change needs, records of changes. Differs: fsi->mutex is not here: nothing of this sleeps
    between looking and changing.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.audit import AUDIT_MAC_POLICY_LOAD, AUDIT_MAC_STATUS, audit_log
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EACCES, EBUSY, EFBIG, EINVAL, EIO, ENOMEM, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL, alloc_page, get_page
from glasskernel.mm.types import (
    VM_DONTEXPAND,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_SHARED,
    VM_WRITE,
    VmOperations,
)
from glasskernel.security.selinux.av_permissions import (
    SECURITY__LOAD_POLICY,
    SECURITY__READ_POLICY,
    SECURITY__SETBOOL,
    SECURITY__SETCHECKREQPROT,
    SECURITY__SETENFORCE,
    SECURITY__SETSECPARAM,
)
from glasskernel.security.selinux.avc import avc_get_hash_stats, avc_ss_reset
from glasskernel.security.selinux.selinuxfs_ask import may
from glasskernel.security.selinux.ss.policydb_write import security_read_policy
from glasskernel.security.selinux.ss.services import security_sid_to_context
from glasskernel.security.selinux.ss.services_load import (
    NOBODYS_SESSION,
    security_get_bool_value,
    security_load_policy,
    security_set_bools,
)
from glasskernel.security.selinux.ss.status import (
    STATUS_SIZE,
    selinux_kernel_status_page,
    selinux_status_update_setenforce,
)
from glasskernel.security.selinux.types import POLICYDB_VERSION_MAX

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import VmAreaStruct, VmFault
    from glasskernel.security.selinux.types import SelinuxState

PAGE_SIZE = 4096
POLICY_MAX_SIZE = 64 << 20


@notrace
def state_of(file: File) -> SelinuxState:
    state = file.f_path.dentry.d_sb.kernel.selinux
    assert state is not None
    return state


@notrace
def number_written(iocb: Kiocb, source: IovIter) -> int:
    """sscanf("%d") of what is written. Raises ENOMEM (a page or more), EINVAL."""
    if source.count >= PAGE_SIZE:
        raise KernelError(ENOMEM)
    if iocb.ki_pos:
        raise KernelError(EINVAL)                           # no partial writes
    number = re.match(rb"\s*[+-]?\d+", source.copy_from_iter(source.count))
    if number is None:
        raise KernelError(EINVAL)
    return int(number[0])


# ---- enforce, checkreqprot ---------------------------------------------------------------------------------
def sel_read_enforce(iocb: Kiocb, to: IovIter) -> int:
    return simple_read_from_buffer(to, iocb, b"%d" % state_of(iocb.ki_filp).enforcing)


def sel_write_enforce(iocb: Kiocb, source: IovIter) -> int:
    """setenforce(8). Raises EACCES."""
    count, state = source.count, state_of(iocb.ki_filp)
    new_value, old_value = bool(number_written(iocb, source)), state.enforcing
    if new_value != old_value:
        may(state, SECURITY__SETENFORCE)
        audit_log(state.kernel, AUDIT_MAC_STATUS, f"enforcing={new_value:d} old_enforcing={old_value:d} "
                  f"{NOBODYS_SESSION} enabled=1 old-enabled=1 lsm=selinux res=1")
        state.enforcing = new_value
        if new_value:
            avc_ss_reset(state, 0)
        for notify in state.setenforce:
            notify(state, new_value)
        selinux_status_update_setenforce(state)
    return count


def sel_read_checkreqprot(iocb: Kiocb, to: IovIter) -> int:
    return simple_read_from_buffer(to, iocb, b"%d" % state_of(iocb.ki_filp).checkreqprot)


def sel_write_checkreqprot(iocb: Kiocb, source: IovIter) -> int:
    """Is mmap() checked for what was asked for, or for what it gives? Raises EACCES."""
    count, state = source.count, state_of(iocb.ki_filp)
    may(state, SECURITY__SETCHECKREQPROT)
    state.checkreqprot = bool(number_written(iocb, source))
    return count


# ---- what the policy is ------------------------------------------------------------------------------------
def sel_read_policyvers(iocb: Kiocb, to: IovIter) -> int:
    return simple_read_from_buffer(to, iocb, b"%d" % POLICYDB_VERSION_MAX)


def sel_read_mls(iocb: Kiocb, to: IovIter) -> int:
    return simple_read_from_buffer(to, iocb, b"%d" % state_of(iocb.ki_filp).ss.policydb.mls_enabled)


def sel_read_handle_unknown(iocb: Kiocb, to: IovIter) -> int:
    """reject_unknown (i_private is True) and deny_unknown."""
    p = state_of(iocb.ki_filp).ss.policydb
    value = p.reject_unknown if iocb.ki_filp.f_inode.i_private else not p.allow_unknown
    return simple_read_from_buffer(to, iocb, b"%d" % value)


def sel_read_class(iocb: Kiocb, to: IovIter) -> int:
    """The number of a class."""
    return simple_read_from_buffer(to, iocb, b"%d" % iocb.ki_filp.f_inode.i_private)


def sel_read_perm(iocb: Kiocb, to: IovIter) -> int:
    """The number of a permission in its class."""
    return simple_read_from_buffer(to, iocb, b"%d" % iocb.ki_filp.f_inode.i_private)


def sel_read_policycap(iocb: Kiocb, to: IovIter) -> int:
    """Does the policy know of it?"""
    file = iocb.ki_filp
    return simple_read_from_buffer(to, iocb, b"%d" % state_of(file).policycap[file.f_inode.i_private])


def sel_read_initcon(iocb: Kiocb, to: IovIter) -> int:
    """The context of an initial SID, with the NUL at its end."""
    file = iocb.ki_filp
    return simple_read_from_buffer(to, iocb, security_sid_to_context(state_of(file), file.f_inode.i_private) + b"\0")


@may_sleep
def sel_write_load(iocb: Kiocb, source: IovIter) -> int:
    """A whole policy in one write. Raises EACCES, EINVAL."""
    count, state = source.count, state_of(iocb.ki_filp)
    may(state, SECURITY__LOAD_POLICY)
    if iocb.ki_pos:
        raise KernelError(EINVAL)
    if count > POLICY_MAX_SIZE:
        raise KernelError(EFBIG)
    data = source.copy_from_iter(count)
    try:
        security_load_policy(state, data)
    except KernelError:
        printk(state.kernel, "SELinux: failed to load policy", 4)
        raise
    state.fs_info.make_policy_nodes(state)
    audit_log(state.kernel, AUDIT_MAC_POLICY_LOAD, f"{NOBODYS_SESSION} lsm=selinux res=1")
    return count


def sel_open_policy(inode: Inode, file: File) -> None:
    """The policy in force as a file. Raises EACCES, EBUSY: somebody else reads it."""
    state = state_of(file)
    may(state, SECURITY__READ_POLICY)
    if state.fs_info.policy_opened:
        raise KernelError(EBUSY)
    data = security_read_policy(state)
    inode.i_size = len(data)
    file.private_data = data
    state.fs_info.policy_opened = True


def sel_release_policy(inode: Inode, file: File) -> None:
    """Another may read it."""
    file.private_data = None
    state_of(file).fs_info.policy_opened = False


def sel_read_policy(iocb: Kiocb, to: IovIter) -> int:
    """Raises EACCES."""
    may(state_of(iocb.ki_filp), SECURITY__READ_POLICY)
    return simple_read_from_buffer(to, iocb, iocb.ki_filp.private_data)


@may_sleep
def sel_mmap_policy_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault(): a page with the part of the policy."""
    assert vma.vm_file is not None
    data: bytes = vma.vm_file.private_data
    part = data[vmf.pgoff * PAGE_SIZE : (vmf.pgoff + 1) * PAGE_SIZE]
    if not part:
        return VM_FAULT_SIGBUS
    kernel = state_of(vma.vm_file).kernel
    vmf.pfn = alloc_page(kernel, GFP_KERNEL)
    kernel.machine.ram[vmf.pfn << 12 : (vmf.pfn + 1) << 12] = part.ljust(PAGE_SIZE, b"\0")
    return 0


sel_mmap_policy_ops = VmOperations(fault=sel_mmap_policy_fault)


def sel_mmap_policy(file: File, vma: VmAreaStruct) -> None:
    """->mmap(): to read. Raises EACCES."""
    if vma.vm_flags & VM_SHARED:
        vma.vm_flags &= ~VM_MAYWRITE
        if vma.vm_flags & VM_WRITE:
            raise KernelError(EACCES)
    vma.vm_flags |= VM_DONTEXPAND
    vma.vm_ops = sel_mmap_policy_ops


# ---- status ------------------------------------------------------------------------------------------------
def sel_open_handle_status(inode: Inode, file: File) -> None:
    """->open(): the page is there from now on."""
    file.private_data = selinux_kernel_status_page(state_of(file))


def sel_read_handle_status(iocb: Kiocb, to: IovIter) -> int:
    address = iocb.ki_filp.private_data << 12
    ram = state_of(iocb.ki_filp).kernel.machine.ram
    return simple_read_from_buffer(to, iocb, bytes(ram[address : address + STATUS_SIZE]))


@notrace
def _status_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault(): Linux maps the page at mmap()."""
    assert vma.vm_file is not None
    vmf.pfn = vma.vm_file.private_data
    get_page(state_of(vma.vm_file).kernel, vmf.pfn)
    return 0


sel_status_vm_ops = VmOperations(fault=_status_fault)


def sel_mmap_handle_status(file: File, vma: VmAreaStruct) -> None:
    """->mmap(): one page, to read. Raises EIO, EPERM."""
    if vma.vm_pgoff or vma.vm_end - vma.vm_start != PAGE_SIZE:
        raise KernelError(EIO)
    if vma.vm_flags & VM_WRITE:
        raise KernelError(EPERM)
    vma.vm_flags &= ~VM_MAYWRITE
    vma.vm_ops = sel_status_vm_ops


# ---- booleans ----------------------------------------------------------------------------------------------
@notrace
def _index_of_bool(file: File) -> int:
    """Which boolean it is. Raises EINVAL: a policy without it was loaded after the file was opened."""
    index: int = file.f_inode.i_private
    names = state_of(file).fs_info.bool_pending_names
    if index >= len(names) or names[index] != file.f_path.dentry.d_name:
        raise KernelError(EINVAL)
    return index


def sel_read_bool(iocb: Kiocb, to: IovIter) -> int:
    """Its value, and the one that commit_pending_bools would give it. Raises EINVAL."""
    state, index = state_of(iocb.ki_filp), _index_of_bool(iocb.ki_filp)
    text = b"%d %d" % (security_get_bool_value(state, index), state.fs_info.bool_pending_values[index])
    return simple_read_from_buffer(to, iocb, text)


def sel_write_bool(iocb: Kiocb, source: IovIter) -> int:
    """Its next value. Raises EACCES, EINVAL."""
    count, state = source.count, state_of(iocb.ki_filp)
    value = bool(number_written(iocb, source))
    may(state, SECURITY__SETBOOL)
    state.fs_info.bool_pending_values[_index_of_bool(iocb.ki_filp)] = value
    return count


def sel_commit_bools_write(iocb: Kiocb, source: IovIter) -> int:
    """1: all booleans get their next values. Raises EACCES, EINVAL."""
    count, state = source.count, state_of(iocb.ki_filp)
    value = number_written(iocb, source)
    may(state, SECURITY__SETBOOL)
    if value and state.fs_info.bool_pending_values:
        security_set_bools(state, state.fs_info.bool_pending_values)
    return count


# ---- the AVC -----------------------------------------------------------------------------------------------
def sel_read_avc_cache_threshold(iocb: Kiocb, to: IovIter) -> int:
    return simple_read_from_buffer(to, iocb, b"%d" % state_of(iocb.ki_filp).avc.avc_cache_threshold)


def sel_write_avc_cache_threshold(iocb: Kiocb, source: IovIter) -> int:
    """How many answers are kept. Raises EACCES, EINVAL."""
    count, state = source.count, state_of(iocb.ki_filp)
    may(state, SECURITY__SETSECPARAM)
    state.avc.avc_cache_threshold = number_written(iocb, source) & 0xFFFFFFFF
    return count


def sel_read_avc_hash_stats(iocb: Kiocb, to: IovIter) -> int:
    avc: Any = state_of(iocb.ki_filp).avc
    stats = avc_get_hash_stats(avc)
    return simple_read_from_buffer(to, iocb, b"entries: %d\nbuckets used: %d/%d\nlongest chain: %d\n" % (
        stats.entries, stats.slots_used, len(avc.slots), stats.longest_chain))


def sel_avc_stats_seq_show(iocb: Kiocb, to: IovIter) -> int:
    """A line for each CPU."""
    lines = [b"lookups hits misses allocations reclaims frees\n"]
    lines += [b"%d %d %d %d %d %d\n" % (s.lookups, s.lookups - s.misses, s.misses, s.allocations, s.reclaims, s.frees)
              for s in state_of(iocb.ki_filp).avc.stats]
    return simple_read_from_buffer(to, iocb, b"".join(lines))


@notrace
def _file(read: Any = None, write: Any = None) -> FileOperations:
    """Operations of a small text file."""
    given = {name: function for name, function in (("read_iter", read), ("write_iter", write)) if function is not None}
    return FileOperations(llseek=generic_file_llseek, **given)


sel_enforce_ops = _file(sel_read_enforce, sel_write_enforce)
sel_checkreqprot_ops = _file(sel_read_checkreqprot, sel_write_checkreqprot)
sel_policyvers_ops = _file(sel_read_policyvers)
sel_mls_ops = _file(sel_read_mls)
sel_handle_unknown_ops = _file(sel_read_handle_unknown)
sel_class_ops = _file(sel_read_class)
sel_perm_ops = _file(sel_read_perm)
sel_policycap_ops = _file(sel_read_policycap)
sel_initcon_ops = _file(sel_read_initcon)
sel_load_ops = _file(None, sel_write_load)
sel_bool_ops = _file(sel_read_bool, sel_write_bool)
sel_commit_bools_ops = _file(None, sel_commit_bools_write)
sel_avc_cache_threshold_ops = _file(sel_read_avc_cache_threshold, sel_write_avc_cache_threshold)
sel_avc_hash_stats_ops = _file(sel_read_avc_hash_stats)
sel_avc_cache_stats_ops = _file(sel_avc_stats_seq_show)
sel_policy_ops = FileOperations(open=sel_open_policy, read_iter=sel_read_policy, mmap=sel_mmap_policy,
                                release=sel_release_policy, llseek=generic_file_llseek)
sel_handle_status_ops = FileOperations(open=sel_open_handle_status, read_iter=sel_read_handle_status,
                                       mmap=sel_mmap_handle_status, llseek=generic_file_llseek)
