"""What the rest of SELinux asks the security server: about SIDs, contexts, and classes of the kernel.

Linux: security/selinux/ss/services.c (5.3). Same: everything is allowed until the first policy; names of the functions;
    records of contexts that should not be. Policies are loaded by services_load.py, compared in compute.py; contexts of
    network objects are in services_net.py. The functions called _user speak the policy's classes and permissions (for
    selinuxfs), the others the kernel's. Gaps: NetLabel, labelled IPsec, audit rules about contexts.
Owns: SelinuxSs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EACCES, EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.flask import (
    SECCLASS_DIR,
    SECCLASS_PROCESS,
    SECINITSID_KERNEL,
    SECINITSID_NUM,
    SECINITSID_UNLABELED,
    initial_sid_to_string,
)
from glasskernel.security.selinux.ss.avtab import AVTAB_CHANGE, AVTAB_MEMBER, AVTAB_TRANSITION
from glasskernel.security.selinux.ss.compute import (
    ALL_XPERMS,
    compute_new_context,
    context_struct_compute_av,
    selinux_err,
    services_compute_xperms_decision,
)
from glasskernel.security.selinux.ss.constraint import constraint_expr_eval
from glasskernel.security.selinux.ss.context_string import context_struct_to_string, string_to_context_struct
from glasskernel.security.selinux.ss.isvalid import policydb_context_isvalid
from glasskernel.security.selinux.ss.mapping import ALL_PERMISSIONS, SelinuxMap, map_class, map_decision, unmap_class
from glasskernel.security.selinux.ss.ocontext import OCON_FSUSE
from glasskernel.security.selinux.ss.policydb import PolicyDb
from glasskernel.security.selinux.ss.sidtab import Sidtab, sidtab_context_to_sid, sidtab_search, sidtab_search_force
from glasskernel.security.selinux.ss.symtab import SYM_CLASSES
from glasskernel.security.selinux.types import (
    AVD_FLAGS_PERMISSIVE,
    SECSID_NULL,
    SECURITY_FS_USE_GENFS,
    SECURITY_FS_USE_NONE,
    AvDecision,
    ExtendedPermsDecision,
    SelinuxState,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.security.selinux.ss.context import Context

_is_socket_class = (False, *(name.endswith("socket") for name in secclass_map))     # security_is_socket_class()


@slotted
class SelinuxSs:
    """struct selinux_ss"""
    policydb: PolicyDb
    sidtab: Sidtab = field(default_factory=Sidtab)
    map: SelinuxMap = field(default_factory=lambda: SelinuxMap([]))
    latest_granting: int = 0        # the number of the policy, or of the last change of a boolean


@notrace
def selinux_ss_init(kernel: Kernel) -> SelinuxState:
    """A security server without a policy."""
    return SelinuxState(kernel, SelinuxSs(PolicyDb(kernel)))


@notrace
def context_of(state: SelinuxState, sid: int, who: str) -> Context:
    """The context of a SID. Raises EINVAL."""
    context = sidtab_search(state.ss.sidtab, sid)
    if context is None:
        printk(state.kernel, f"SELinux: {who}:  unrecognized SID {sid}", 3)
        raise KernelError(EINVAL)
    return context


# ---- permissions -------------------------------------------------------------------------------------------
def security_compute_av(state: SelinuxState, ssid: int, tsid: int, tclass: int) -> AvDecision:
    """What ssid may do to tsid, in the kernel's classes and permissions."""
    ss = state.ss
    found = _contexts_and_flags(state, ssid, tsid)
    if not isinstance(found, tuple):
        return AvDecision(found, 0, ALL_PERMISSIONS, ss.latest_granting, 0)
    scontext, tcontext, flags = found
    pol_class = unmap_class(ss.map, tclass)
    if tclass and not pol_class:
        return _unknown_class(ss, flags)
    avd = AvDecision(*context_struct_compute_av(ss.policydb, scontext, tcontext, pol_class), ss.latest_granting, flags)
    return map_decision(ss.map, tclass, avd, ss.policydb.allow_unknown)


def security_compute_av_user(state: SelinuxState, ssid: int, tsid: int, tclass: int) -> AvDecision:
    """The same in the policy's classes and permissions."""
    ss = state.ss
    found = _contexts_and_flags(state, ssid, tsid)
    if not isinstance(found, tuple):
        return AvDecision(found, 0, ALL_PERMISSIONS, ss.latest_granting, 0)
    scontext, tcontext, flags = found
    if not tclass:
        return _unknown_class(ss, flags)
    return AvDecision(*context_struct_compute_av(ss.policydb, scontext, tcontext, tclass), ss.latest_granting, flags)


@notrace
def _contexts_and_flags(state: SelinuxState, ssid: int, tsid: int) -> tuple[Context, Context, int] | int:
    """Both contexts, and AVD_FLAGS_*; or what is allowed without any: everything before there is a policy."""
    if not state.initialized:
        return ALL_PERMISSIONS
    ss = state.ss
    scontext, tcontext = sidtab_search(ss.sidtab, ssid), sidtab_search(ss.sidtab, tsid)
    if scontext is None or tcontext is None:
        return 0
    permissive = ss.policydb.permissive_map >> scontext.type & 1
    return scontext, tcontext, AVD_FLAGS_PERMISSIVE if permissive else 0


@notrace
def _unknown_class(ss: SelinuxSs, flags: int) -> AvDecision:
    """A class that the policy does not have."""
    allowed = ALL_PERMISSIONS if ss.policydb.allow_unknown else 0
    return AvDecision(allowed, 0, ALL_PERMISSIONS, ss.latest_granting, flags)


def security_compute_xperms_decision(state: SelinuxState, ssid: int, tsid: int, tclass: int,
                                     driver: int) -> ExtendedPermsDecision:
    """Which ioctl numbers of a driver (their second byte) the rules allow, have recorded, want no records of."""
    nothing = ExtendedPermsDecision(driver, 0, 0, 0)
    everything = ExtendedPermsDecision(driver, ALL_XPERMS, ALL_XPERMS, 0)
    if not state.initialized:
        return everything
    ss = state.ss
    scontext, tcontext = sidtab_search(ss.sidtab, ssid), sidtab_search(ss.sidtab, tsid)
    if scontext is None or tcontext is None:
        return nothing
    pol_class = unmap_class(ss.map, tclass)
    if not pol_class:
        return everything if ss.policydb.allow_unknown else nothing
    return services_compute_xperms_decision(ss.policydb, scontext, tcontext, pol_class, driver)


# ---- SIDs and their text -----------------------------------------------------------------------------------
def security_sid_to_context(state: SelinuxState, sid: int) -> bytes:
    """The context of a SID, no NUL at its end; unlabeled's, where the policy does not know it. Raises EINVAL."""
    return security_sid_to_context_core(state, sid, False)


def security_sid_to_context_force(state: SelinuxState, sid: int) -> bytes:
    """The context of a SID, even one that the policy does not know. Raises EINVAL."""
    return security_sid_to_context_core(state, sid, True)


def security_sid_to_context_inval(state: SelinuxState, sid: int) -> bytes | None:
    """The context of a SID if the policy does not know it."""
    context = sidtab_search_force(state.ss.sidtab, sid) if state.initialized else None
    return context if isinstance(context, bytes) else None


def security_sid_to_context_core(state: SelinuxState, sid: int, force: bool) -> bytes:
    if not state.initialized:
        if sid <= SECINITSID_NUM:
            return initial_sid_to_string[sid].encode()
        printk(state.kernel, "SELinux: security_sid_to_context_core:  called before initial load_policy on unknown SID "
               f"{sid}", 3)
        raise KernelError(EINVAL)
    sidtab = state.ss.sidtab
    context = sidtab_search_force(sidtab, sid) if force else sidtab_search(sidtab, sid)
    if context is None:
        printk(state.kernel, f"SELinux: security_sid_to_context_core:  unrecognized SID {sid}", 3)
        raise KernelError(EINVAL)
    return context_struct_to_string(state.ss.policydb, context)


def security_context_to_sid(state: SelinuxState, scontext: bytes) -> int:
    """The SID of a context. Raises EINVAL."""
    return security_context_to_sid_core(state, scontext, SECSID_NULL, False)


def security_context_to_sid_default(state: SelinuxState, scontext: bytes, def_sid: int) -> int:
    """The SID of a context from an extended attribute: one that the policy does not know keeps its text, one without a
    range has that of def_sid. Raises EINVAL."""
    return security_context_to_sid_core(state, scontext, def_sid, True)


def security_context_to_sid_force(state: SelinuxState, scontext: bytes) -> int:
    """The SID of a context; one that the policy does not know keeps its text. Raises EINVAL."""
    return security_context_to_sid_core(state, scontext, SECSID_NULL, True)


def security_context_to_sid_core(state: SelinuxState, scontext: bytes, def_sid: int, force: bool) -> int:
    scontext = scontext.split(b"\0", 1)[0]
    if not scontext:
        raise KernelError(EINVAL)
    if not state.initialized:
        for sid in range(1, SECINITSID_NUM + 1):
            if initial_sid_to_string[sid].encode() == scontext:
                return sid
        return SECINITSID_KERNEL
    ss = state.ss
    default = sidtab_search(ss.sidtab, def_sid) if def_sid != SECSID_NULL else None
    try:
        context: Context | bytes = string_to_context_struct(ss.policydb, scontext,
                                                            default.range if default is not None else None)
    except KernelError:
        if not force:
            raise
        context = scontext
    return sidtab_context_to_sid(ss.sidtab, context)


# ---- new objects -------------------------------------------------------------------------------------------
def security_transition_sid(state: SelinuxState, ssid: int, tsid: int, tclass: int, qstr: bytes | None) -> int:
    """The SID of a new object of tclass that ssid makes in tsid (exec: of the process), qstr its name if it has one.
    Raises EACCES where that would be no context."""
    return security_compute_sid(state, ssid, tsid, tclass, AVTAB_TRANSITION, qstr, True)


def security_transition_sid_user(state: SelinuxState, ssid: int, tsid: int, tclass: int, objname: bytes | None) -> int:
    return security_compute_sid(state, ssid, tsid, tclass, AVTAB_TRANSITION, objname, False)


def security_member_sid(state: SelinuxState, ssid: int, tsid: int, tclass: int) -> int:
    """The SID of ssid's own member of a polyinstantiated object."""
    return security_compute_sid(state, ssid, tsid, tclass, AVTAB_MEMBER, None, False)


def security_change_sid(state: SelinuxState, ssid: int, tsid: int, tclass: int) -> int:
    """The SID that an object of tsid gets when ssid's session takes it (relabelling of terminals)."""
    return security_compute_sid(state, ssid, tsid, tclass, AVTAB_CHANGE, None, False)


def security_compute_sid(state: SelinuxState, ssid: int, tsid: int, orig_tclass: int, specified: int,
                         objname: bytes | None, kern: bool) -> int:
    """kern: orig_tclass is the kernel's number, else the policy's."""
    if not state.initialized:
        return ssid if orig_tclass == SECCLASS_PROCESS else tsid
    ss = state.ss
    tclass, kernel_class = (unmap_class(ss.map, orig_tclass), orig_tclass) if kern else (
        orig_tclass, map_class(ss.map, orig_tclass))
    sock = kernel_class < len(_is_socket_class) and _is_socket_class[kernel_class]
    scontext = context_of(state, ssid, "security_compute_sid")
    tcontext = context_of(state, tsid, "security_compute_sid")
    newcontext = compute_new_context(ss.policydb, scontext, tcontext, tclass, specified, objname, sock)
    if not policydb_context_isvalid(ss.policydb, newcontext):
        compute_sid_handle_invalid_context(state, scontext, tcontext, tclass, newcontext)
    return sidtab_context_to_sid(ss.sidtab, newcontext)


def compute_sid_handle_invalid_context(state: SelinuxState, scontext: Context, tcontext: Context, tclass: int,
                                       newcontext: Context) -> None:
    """A rule wants a context that cannot be. Raises EACCES if enforcing."""
    p = state.ss.policydb
    selinux_err(p, b'op=security_compute_sid invalid_context="%s" scontext=%s tcontext=%s tclass=%s' % (
        context_struct_to_string(p, newcontext), context_struct_to_string(p, scontext),
        context_struct_to_string(p, tcontext), _class_name(p, tclass)))
    if state.enforcing:
        raise KernelError(EACCES)


@notrace
def _class_name(p: PolicyDb, tclass: int) -> bytes:
    return p.sym_val_to_name[SYM_CLASSES][tclass] if 0 < tclass <= p.p_classes.nprim else b"%d" % tclass


# ---- changes of a label ------------------------------------------------------------------------------------
def security_validate_transition(state: SelinuxState, oldsid: int, newsid: int, tasksid: int, tclass: int) -> None:
    """May tasksid relabel from oldsid to newsid? Raises EPERM if enforcing."""
    if not state.initialized:
        return
    ss = state.ss
    texts = security_validate_transition_user(state, oldsid, newsid, tasksid, unmap_class(ss.map, tclass))
    if texts is not None:
        selinux_err(ss.policydb, b"op=security_validate_transition seresult=denied oldcontext=%s newcontext=%s "
                                 b"taskcontext=%s tclass=%s" % texts)
        if state.enforcing:
            raise KernelError(EPERM)


def security_validate_transition_user(state: SelinuxState, oldsid: int, newsid: int, tasksid: int,
                                      tclass: int) -> tuple[bytes, bytes, bytes, bytes] | None:
    """None, or what is to be recorded: old, new and task's context, class (security_compute_validatetrans())."""
    p = state.ss.policydb
    if not state.initialized:
        return None
    if not 0 < tclass <= p.p_classes.nprim:
        raise KernelError(EINVAL)
    who = "security_compute_validatetrans"
    ocontext, ncontext, tcontext = (context_of(state, sid, who) for sid in (oldsid, newsid, tasksid))
    for constraint in p.class_val_to_struct[tclass].validatetrans:
        if not constraint_expr_eval(p, ocontext, ncontext, tcontext, constraint.expr):
            return (context_struct_to_string(p, ocontext), context_struct_to_string(p, ncontext),
                    context_struct_to_string(p, tcontext), _class_name(p, tclass))
    return None


def security_bounded_transition(state: SelinuxState, old_sid: int, new_sid: int) -> None:
    """Is new_sid's type bounded by old_sid's? Raises EPERM."""
    if not state.initialized:
        return
    p = state.ss.policydb
    old_context = context_of(state, old_sid, "security_bounded_transition")
    new_context = context_of(state, new_sid, "security_bounded_transition")
    index = new_context.type
    while index != old_context.type:
        type = p.type_val_to_struct[index]
        if type is None or not type.bounds:
            selinux_err(p, b"op=security_bounded_transition seresult=denied oldcontext=%s newcontext=%s" % (
                context_struct_to_string(p, old_context), context_struct_to_string(p, new_context)))
            raise KernelError(EPERM)
        index = type.bounds


# ---- file systems ------------------------------------------------------------------------------------------
def security_fs_use(state: SelinuxState, sb: SuperBlock) -> tuple[int, int]:
    """How the files of a file system are labelled (SECURITY_FS_USE_*), and the SID of the file system."""
    ss = state.ss
    fstype = sb.s_type.name
    for c in ss.policydb.ocontexts[OCON_FSUSE]:
        if c.name == fstype:
            return c.behavior, sidtab_context_to_sid(ss.sidtab, c.context[0])
    try:
        return SECURITY_FS_USE_GENFS, security_genfs_sid(state, fstype, b"/", SECCLASS_DIR)
    except KernelError:
        return SECURITY_FS_USE_NONE, SECINITSID_UNLABELED


def security_genfs_sid(state: SelinuxState, fstype: bytes, path: bytes, orig_sclass: int) -> int:
    """The SID of a path in a file system without labels. Raises ENOENT where the policy says nothing."""
    ss = state.ss
    while path.startswith(b"//"):
        path = path[1:]
    sclass = unmap_class(ss.map, orig_sclass)
    for genfs in ss.policydb.genfs:
        if genfs.fstype == fstype:
            for c in genfs.head:
                if (not c.sclass or c.sclass == sclass) and path.startswith(c.name):
                    return sidtab_context_to_sid(ss.sidtab, c.context)
    raise KernelError(ENOENT)
