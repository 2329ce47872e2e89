"""Contexts and their MLS levels, as values.

Linux: security/selinux/ss/context.h, mls_types.h (5.3). Differs: equal contexts are equal tuples, so they can be keys.
    A context that the policy does not know is its text (bytes), where Linux has `str` and `len` in the structure.
"""
from __future__ import annotations

from typing import NamedTuple

from glasskernel.lib.types import notrace


class MlsLevel(NamedTuple):
    """struct mls_level: a sensitivity, and a set of categories (ebitmap.py)"""
    sens: int
    cat: int


class MlsRange(NamedTuple):
    """struct mls_range"""
    low: MlsLevel
    high: MlsLevel


class Context(NamedTuple):
    """struct context. range is NO_RANGE in a policy without MLS."""
    user: int
    role: int
    type: int
    range: MlsRange


NO_RANGE = MlsRange(MlsLevel(0, 0), MlsLevel(0, 0))


@notrace
def mls_level_dom(l1: MlsLevel, l2: MlsLevel) -> bool:
    """l1 is at least as high as l2 and has all its categories."""
    return l1.sens >= l2.sens and not l2.cat & ~l1.cat


@notrace
def mls_range_contains(r1: MlsRange, r2: MlsRange) -> bool:
    """r2 lies in r1."""
    return mls_level_dom(r2.low, r1.low) and mls_level_dom(r1.high, r2.high)
