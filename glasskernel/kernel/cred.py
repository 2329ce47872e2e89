"""Credentials: who a task is. Immutable once installed; a change makes a copy and installs it.

Linux: kernel/cred.c. Same: prepare, change, commit; threads of a process share the set they inherited and
    then change their own; a change of ids or a gain of capabilities makes the process undumpable and clears
    the parent-death signal.
Differs: a set is counted from commit_creds() on (one that is only prepared belongs to nobody), once for a task's
    cred and real_cred together. The accounts of a user (user_struct) are found by uid.
Owns: TaskStruct.cred, .real_cred and UserStruct.processes. Invariants: a Cred that a task uses never changes;
    UserStruct.processes counts the tasks whose real uid it is, zombies included.
Context: task. Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import GFP_KERNEL, alloc_uid
from glasskernel.kernel.rcu.callbacks import call_rcu
from glasskernel.kernel.task import PF_NPROC_EXCEEDED, RLIM_INFINITY, RLIMIT_NPROC, Cred, TaskStruct
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

CLONE_THREAD = 0x0001_0000
SUID_DUMP_DISABLE = 0


@notrace
def current_cred() -> Cred:
    return current().cred


@notrace
def init_cred() -> Cred:
    """The credentials of the first task: root with every capability of 5.3 (CAP_AUDIT_READ is the last)."""
    full = (1 << 38) - 1
    return Cred(cap_permitted=full, cap_effective=full, cap_bset=full)


@notrace
def copy_cred(old: Cred) -> Cred:
    """A copy that may be changed. By position: copy.copy() takes ten times as long."""
    return Cred(
        old.uid, old.gid, old.suid, old.sgid, old.euid, old.egid, old.fsuid, old.fsgid, old.groups,
        old.securebits, old.cap_inheritable, old.cap_permitted, old.cap_effective, old.cap_bset,
        old.cap_ambient, old.no_new_privs, old.session_keyring, old.process_keyring, old.thread_keyring,
        old.jit_keyring,
    )


@notrace
def get_cred(cred: Cred) -> Cred:
    """One more user of the set. The first one takes references on its keyrings, and a slot of cred_jar."""
    if not cred.usage:
        kernel = current().kernel
        cred.slab_address = kernel.kmem_cache_alloc(kernel.slab.cred_jar, GFP_KERNEL)
        for keyring in (cred.session_keyring, cred.process_keyring, cred.thread_keyring):
            if keyring is not None:
                keyring.usage += 1                 # key_get()
    cred.usage += 1
    return cred


@notrace
def put_cred(cred: Cred) -> None:
    """One less; the last one frees it after a grace period."""
    cred.usage -= 1
    if not cred.usage:
        __put_cred(cred)


def __put_cred(cred: Cred) -> None:
    call_rcu(cred, put_cred_rcu)


def put_cred_rcu(cred: Cred) -> None:
    """Nobody looks at it any more. Context: softirq."""
    for keyring in (cred.session_keyring, cred.process_keyring, cred.thread_keyring):
        if keyring is not None:
            keyring.kernel.keys.put(keyring)       # key_put()
    kernel = current().kernel
    kernel.kmem_cache_free(kernel.slab.cred_jar, cred.slab_address)


def prepare_creds() -> Cred:
    """A copy of the current credentials, to be changed and given to commit_creds()."""
    task = current()
    old = task.cred
    new = copy_cred(old)
    lsm = task.kernel.lsm
    if lsm is not None:
        lsm.security_prepare_creds(new, old)
    return new


def prepare_exec_creds() -> Cred:
    """prepare_creds() for execve(2). (Keyrings would be left behind here.)"""
    return prepare_creds()


def commit_creds(new: Cred) -> None:
    """Installs changed credentials on the current task. Raises ENOMEM (Linux: prepare_creds() does)."""
    task = current()
    old = task.real_cred
    get_cred(new)
    gained = new.cap_permitted & ~old.cap_permitted
    if (
        old.euid != new.euid or old.egid != new.egid
        or old.fsuid != new.fsuid or old.fsgid != new.fsgid or gained
    ):
        if task.mm is not None:
            task.mm.dumpable = SUID_DUMP_DISABLE
        task.pdeath_signal = 0
    if old.uid != new.uid:
        alloc_uid(task.kernel, new.uid).processes += 1
        alloc_uid(task.kernel, old.uid).processes -= 1
    task.real_cred = task.cred = new
    put_cred(old)


def override_creds(new: Cred) -> Cred:
    """Acts with other credentials for a while; answers what revert_creds() wants back."""
    task = current()
    old = task.cred
    task.cred = new
    return old


def revert_creds(old: Cred) -> None:
    """Ends override_creds()."""
    current().cred = old


def copy_creds(p: TaskStruct, clone_flags: int) -> None:
    """fork: a new thread shares the credentials, a new process gets a copy without the keyrings of one process only.

    Raises ENOMEM.
    """
    if clone_flags & CLONE_THREAD and current().cred.thread_keyring is None:
        cred = p.cred = p.real_cred = current().cred
    else:
        cred = p.cred = p.real_cred = prepare_creds()
        cred.thread_keyring = None
        if not clone_flags & CLONE_THREAD:
            cred.process_keyring = None
    get_cred(cred)
    alloc_uid(p.kernel, cred.uid).processes += 1


@notrace
def uncount_process(task: TaskStruct) -> None:
    """The task is released (or was never started): its user has one process less."""
    alloc_uid(task.kernel, task.real_cred.uid).processes -= 1


def exit_creds(task: TaskStruct) -> None:
    """The task is freed."""
    put_cred(task.real_cred)


@notrace
def set_user_nproc_check(task: TaskStruct, new: Cred) -> None:
    """set_user(): a new uid that has its RLIMIT_NPROC full is noted; execve(2) then fails with EAGAIN."""
    limit = task.signal.rlim[RLIMIT_NPROC][0]
    if limit != RLIM_INFINITY and new.uid and alloc_uid(task.kernel, new.uid).processes >= limit:
        task.flags |= PF_NPROC_EXCEEDED
    else:
        task.flags &= ~PF_NPROC_EXCEEDED


def cred_init(kernel: Kernel) -> None:
    """Gives the boot task its credentials."""
    task = kernel.pids.idle_tasks[0]
    task.cred = task.real_cred = init_cred()
    task.cred.usage = 1
