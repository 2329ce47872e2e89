"""Security identifiers: a number for each context that somebody has asked about.

Linux: security/selinux/ss/sidtab.c (5.3). Same: 1 to SECINITSID_NUM are the initial SIDs, others count on from there
    and are never given back; a context that the policy does not know keeps its text, and its rights are those of the
    initial SID `unlabeled`. Differs: contexts are found through a dict; Linux walks the table (its cache has three).
Owns: Sidtab. Invariant: reverse[entries[sid]] <= sid.
"""
from __future__ import annotations

from collections.abc import Callable

from glasskernel.lib.slotted import field, slotted
from glasskernel.security.selinux.flask import SECINITSID_NUM, SECINITSID_UNLABELED
from glasskernel.security.selinux.ss.context import Context


@slotted
class Sidtab:
    """struct sidtab. A context that the policy does not know is its text."""
    entries: list[Context | bytes | None] = field(default_factory=lambda: [None] * (SECINITSID_NUM + 1))
    reverse: dict[Context | bytes, int] = field(default_factory=dict)


def sidtab_set_initial(s: Sidtab, sid: int, context: Context) -> None:
    """The context of an initial SID; the smallest one stands for a context that several have."""
    s.entries[sid] = context
    s.reverse[context] = min(sid, s.reverse.get(context, sid))


def sidtab_search_force(s: Sidtab, sid: int) -> Context | bytes | None:
    """The context of a SID, or its text; of unlabeled, if the SID is not known."""
    entry = s.entries[sid] if 0 < sid < len(s.entries) else None
    return entry if entry is not None else s.entries[SECINITSID_UNLABELED]


def sidtab_search(s: Sidtab, sid: int) -> Context | None:
    """The context of a SID; of unlabeled, if the SID is not known or its context is unknown to the policy."""
    entry = s.entries[sid] if 0 < sid < len(s.entries) else None
    if not isinstance(entry, Context):
        entry = s.entries[SECINITSID_UNLABELED]
    return entry if isinstance(entry, Context) else None


def sidtab_context_to_sid(s: Sidtab, context: Context | bytes) -> int:
    """The SID of a context, made now if there is none."""
    sid = s.reverse.get(context)
    if sid is None:
        sid = s.reverse[context] = len(s.entries)
        s.entries.append(context)
    return sid


def sidtab_convert(s: Sidtab, new: Sidtab, convert: Callable[[Context | bytes], Context | bytes]) -> None:
    """Into `new` with each context as another policy has it, under the same SIDs. `new` has the initial ones."""
    for sid in range(SECINITSID_NUM + 1, len(s.entries)):
        entry = s.entries[sid]
        assert entry is not None
        context = convert(entry)
        new.entries.append(context)
        new.reverse.setdefault(context, sid)
