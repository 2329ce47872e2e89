"""The page from which programs read the state of SELinux without a system call.

Linux: security/selinux/ss/status.c (5.3). Same: its layout, the sequence number that is odd while the page changes
    (nobody ever sees that here: the kernel is not interrupted), made by the first who opens the file.
Owns: SelinuxState.status_page.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import GFP_KERNEL, get_zeroed_page

if TYPE_CHECKING:
    from glasskernel.security.selinux.types import SelinuxState

SELINUX_KERNEL_STATUS_VERSION = 1
STATUS_SIZE = 20                    # struct selinux_kernel_status
_status = Struct("<5I")             # version, sequence, enforcing, policyload, deny_unknown
_PAGE_SHIFT = 12


def selinux_kernel_status_page(state: SelinuxState) -> int:
    """The page, a frame number."""
    if state.status_page is None:
        state.status_page = get_zeroed_page(state.kernel, GFP_KERNEL)
        _write(state, 0, 0)
    return state.status_page


@notrace
def _write(state: SelinuxState, sequence: int, policyload: int) -> None:
    """The page as things are now."""
    assert state.status_page is not None
    _status.pack_into(state.kernel.machine.ram, state.status_page << _PAGE_SHIFT, SELINUX_KERNEL_STATUS_VERSION,
                      sequence & 0xFFFFFFFF, state.enforcing, policyload, not state.ss.policydb.allow_unknown)


@notrace
def _read(state: SelinuxState) -> tuple[int, int]:
    """Its sequence number, and the policy's."""
    assert state.status_page is not None
    numbers = _status.unpack_from(state.kernel.machine.ram, state.status_page << _PAGE_SHIFT)
    return numbers[1], numbers[3]


def selinux_status_update_setenforce(state: SelinuxState) -> None:
    """The mode has changed."""
    if state.status_page is not None:
        sequence, policyload = _read(state)
        _write(state, sequence + 2, policyload)


def selinux_status_update_policyload(state: SelinuxState, seqno: int) -> None:
    """A policy was loaded, or a boolean has changed."""
    if state.status_page is not None:
        _write(state, _read(state)[0] + 2, seqno)
