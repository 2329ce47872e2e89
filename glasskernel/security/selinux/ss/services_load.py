"""Loading a policy, and what selinuxfs shows and changes of it: booleans, classes, capabilities.

Linux: security_load_policy() ... of security/selinux/ss/services.c (5.3). Same: a new policy keeps the values of
    booleans and all SIDs; a context that it does not know keeps its text until a policy knows it again; the order of
    what follows (super blocks of before, the AVC, the status page).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.kernel.audit import AUDIT_MAC_CONFIG_CHANGE, audit_log
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.flask import SECINITSID_NUM, SECINITSID_UNLABELED, initial_sid_to_string
from glasskernel.security.selinux.ss.conditional import evaluate_cond_node
from glasskernel.security.selinux.ss.context import NO_RANGE, Context, MlsLevel, MlsRange
from glasskernel.security.selinux.ss.context_string import context_struct_to_string, string_to_context_struct
from glasskernel.security.selinux.ss.ebitmap import ebitmap_for_each_positive_bit
from glasskernel.security.selinux.ss.isvalid import policydb_context_isvalid
from glasskernel.security.selinux.ss.mapping import selinux_set_mapping
from glasskernel.security.selinux.ss.ocontext import OCON_ISID
from glasskernel.security.selinux.ss.policydb import PolicyDb, policydb_read
from glasskernel.security.selinux.ss.policyfile import PolicyFile
from glasskernel.security.selinux.ss.sidtab import Sidtab, sidtab_convert, sidtab_set_initial
from glasskernel.security.selinux.ss.status import selinux_status_update_policyload
from glasskernel.security.selinux.ss.symtab import SYM_BOOLS, SYM_CATS, SYM_LEVELS, SYM_ROLES, SYM_TYPES, SYM_USERS
from glasskernel.security.selinux.types import selinux_policycap_names

if TYPE_CHECKING:
    from glasskernel.security.selinux.types import SelinuxState

NOBODYS_SESSION = "auid=4294967295 ses=4294967295"      # nobody can set a login uid here (no audit daemon)


def policydb_load_isids(p: PolicyDb, s: Sidtab) -> None:
    """The contexts of the initial SIDs. Raises EINVAL."""
    for c in p.ocontexts[OCON_ISID]:
        if not 0 < c.initial_sid <= SECINITSID_NUM:
            printk(p.kernel, f"SELinux:  Initial SID {c.initial_sid} out of range.", 3)
            raise KernelError(EINVAL)
        sidtab_set_initial(s, c.initial_sid, c.context[0])
    if s.entries[SECINITSID_UNLABELED] is None:
        printk(p.kernel, f"SELinux:  SID {initial_sid_to_string[SECINITSID_UNLABELED]} was never defined.", 3)
        raise KernelError(EINVAL)


def security_load_policycaps(state: SelinuxState) -> None:
    """What the policy says it knows of; Linux prints all of it."""
    p = state.ss.policydb
    for i, name in enumerate(selinux_policycap_names):
        state.policycap[i] = bool(p.policycaps >> i & 1)
        printk(state.kernel, f"SELinux:  policy capability {name}={int(state.policycap[i])}")
    for i in ebitmap_for_each_positive_bit(p.policycaps):
        if i >= len(selinux_policycap_names):
            printk(state.kernel, f"SELinux:  unknown policy capability {i}")


def security_preserve_bools(state: SelinuxState, newpolicydb: PolicyDb) -> None:
    """The booleans of the new policy have the values of before."""
    for name, value in security_get_bools(state.ss.policydb):
        booldatum = newpolicydb.p_bools.table.get(name)
        if booldatum is not None:
            booldatum.state = value
    for node in newpolicydb.cond_list:
        evaluate_cond_node(newpolicydb, node)


# ---- contexts of the old policy in the new one -------------------------------------------------------------
@notrace
def _convert_level(oldp: PolicyDb, newp: PolicyDb, level: MlsLevel) -> MlsLevel:
    """The level of the same name (mls_convert_context()). Raises EINVAL."""
    levdatum = newp.p_levels.table.get(oldp.sym_val_to_name[SYM_LEVELS][level.sens])
    if levdatum is None:
        raise KernelError(EINVAL)
    cat = 0
    for bit in ebitmap_for_each_positive_bit(level.cat):
        catdatum = newp.p_cats.table.get(oldp.sym_val_to_name[SYM_CATS][bit + 1])
        if catdatum is None:
            raise KernelError(EINVAL)
        cat |= 1 << catdatum.value - 1
    return MlsLevel(levdatum.level.sens, cat)


@notrace
def _rename_context(oldp: PolicyDb, newp: PolicyDb, oldc: Context) -> Context:
    """The context of the same names. Raises EINVAL."""
    names = oldp.sym_val_to_name
    user = newp.p_users.table.get(names[SYM_USERS][oldc.user])
    role = newp.p_roles.table.get(names[SYM_ROLES][oldc.role])
    type = newp.p_types.table.get(names[SYM_TYPES][oldc.type])
    if user is None or role is None or type is None:
        raise KernelError(EINVAL)
    if not newp.mls_enabled:
        range = NO_RANGE
    elif oldp.mls_enabled:
        range = MlsRange(_convert_level(oldp, newp, oldc.range.low), _convert_level(oldp, newp, oldc.range.high))
    else:
        range = next(c.context[0].range for c in newp.ocontexts[OCON_ISID] if c.initial_sid == SECINITSID_UNLABELED)
    return Context(user.value, role.value, type.value, range)


def convert_context(state: SelinuxState, newp: PolicyDb, oldc: Context | bytes) -> Context | bytes:
    """A context of the policy in force in the new one; its text, if it does not know it."""
    oldp, kernel = state.ss.policydb, state.kernel
    if isinstance(oldc, bytes):
        try:
            newc = string_to_context_struct(newp, oldc, None)
        except KernelError:
            return oldc
        printk(kernel, b"SELinux:  Context %s became valid (mapped)." % oldc)
        return newc
    try:
        newc = _rename_context(oldp, newp, oldc)
        if not policydb_context_isvalid(newp, newc):
            convert_context_handle_invalid_context(state, oldc)
    except KernelError:
        text = context_struct_to_string(oldp, oldc)
        printk(kernel, b"SELinux:  Context %s became invalid (unmapped)." % text)
        return text
    return newc


def convert_context_handle_invalid_context(state: SelinuxState, context: Context) -> None:
    """Raises EINVAL if enforcing."""
    if state.enforcing:
        raise KernelError(EINVAL)
    printk(state.kernel, b"SELinux:  Context %s would be invalid if enforcing."
           % context_struct_to_string(state.ss.policydb, context), 4)


# ---- loading -----------------------------------------------------------------------------------------------
@notrace
def selinux_notify(state: SelinuxState) -> None:
    """Answers of the security server may have changed: everybody who keeps some is told."""
    state.ss.latest_granting += 1
    for avc_ss_reset in state.avc_ss_reset:             # avc_ss_reset(), selnl_notify_policyload()
        avc_ss_reset(state, state.ss.latest_granting)
    selinux_status_update_policyload(state, state.ss.latest_granting)


def security_load_policy(state: SelinuxState, data: bytes) -> None:
    """A policy takes effect. Raises EINVAL, and nothing has changed."""
    kernel, ss = state.kernel, state.ss
    newpolicydb = PolicyDb(kernel)
    policydb_read(newpolicydb, PolicyFile(kernel, data))
    newpolicydb.len = len(data)
    newsidtab = Sidtab()
    if state.initialized and ss.policydb.mls_enabled != newpolicydb.mls_enabled:
        printk(kernel, f"SELinux: {'Enabling' if newpolicydb.mls_enabled else 'Disabling'} MLS support...")
    newmap = selinux_set_mapping(newpolicydb, secclass_map)
    policydb_load_isids(newpolicydb, newsidtab)
    if state.initialized:
        security_preserve_bools(state, newpolicydb)
        sidtab_convert(ss.sidtab, newsidtab, lambda context: convert_context(state, newpolicydb, context))
    ss.policydb, ss.sidtab, ss.map = newpolicydb, newsidtab, newmap
    security_load_policycaps(state)
    if not state.initialized:
        state.initialized = True
        for complete_init in state.complete_init:
            complete_init(state)
    selinux_notify(state)


# ---- booleans ----------------------------------------------------------------------------------------------
def security_get_bools(p: PolicyDb) -> list[tuple[bytes, bool]]:
    """The booleans of a policy in the order of their values, with their states."""
    return [(name, p.p_bools.table[name].state) for name in p.sym_val_to_name[SYM_BOOLS][1:]]


def security_get_bool_value(state: SelinuxState, index: int) -> bool:
    """The state of a boolean, 0 for the first. Raises EINVAL."""
    bools = state.ss.policydb.bool_val_to_struct
    if index + 1 >= len(bools):
        raise KernelError(EINVAL)
    return bools[index + 1].state


def security_set_bools(state: SelinuxState, values: list[bool]) -> None:
    """New states of all booleans at once. Raises EINVAL."""
    p = state.ss.policydb
    if len(values) != p.p_bools.nprim:
        raise KernelError(EINVAL)
    for (name, old), booldatum, value in zip(security_get_bools(p), p.bool_val_to_struct[1:], values, strict=True):
        if old != value:
            audit_log(state.kernel, AUDIT_MAC_CONFIG_CHANGE, f"bool={name.decode('latin-1')} val={value:d} "
                      f"old_val={old:d} {NOBODYS_SESSION}")
            booldatum.state = value
    for node in p.cond_list:
        evaluate_cond_node(p, node)
    selinux_notify(state)


# ---- classes -----------------------------------------------------------------------------------------------
class ClassInfo(NamedTuple):
    """A class of the policy, for selinuxfs."""
    name: bytes
    value: int
    permissions: dict[bytes, int]   # name -> number, those of the common first


def security_get_classes(p: PolicyDb) -> list[ClassInfo]:
    """The classes of a policy with their permissions (security_get_permissions())."""
    found = []
    for name, cladatum in p.p_classes.table.items():
        common = cladatum.comdatum.permissions.table if cladatum.comdatum is not None else {}
        found.append(ClassInfo(name, cladatum.value, common | cladatum.permissions.table))
    return found
