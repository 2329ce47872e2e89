"""Levels and ranges: their text, whether a policy has them, and what range a new object gets.

Linux: security/selinux/ss/mls.c (5.3). Same: names of categories abbreviated as in `s0:c0.c5,c7`, low-high ranges.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.security.selinux.ss.avtab import AVTAB_CHANGE, AVTAB_TRANSITION
from glasskernel.security.selinux.ss.context import (
    NO_RANGE,
    Context,
    MlsLevel,
    MlsRange,
    mls_level_dom,
    mls_range_contains,
)
from glasskernel.security.selinux.ss.ebitmap import ebitmap_for_each_positive_bit
from glasskernel.security.selinux.ss.symtab import OBJECT_R_VAL, SYM_CATS, SYM_LEVELS

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policydb import PolicyDb

# ClassDatum.default_range
DEFAULT_SOURCE_LOW, DEFAULT_SOURCE_HIGH, DEFAULT_SOURCE_LOW_HIGH = 1, 2, 3
DEFAULT_TARGET_LOW, DEFAULT_TARGET_HIGH, DEFAULT_TARGET_LOW_HIGH = 4, 5, 6


def mls_sid_to_context(p: PolicyDb, context: Context) -> bytes:
    """The text of a range, with the colon before it; empty in a policy without MLS."""
    if not p.mls_enabled:
        return b""
    low, high = context.range
    text = b":" + _level_text(p, low)
    return text if low == high else text + b"-" + _level_text(p, high)


@notrace
def _level_text(p: PolicyDb, level: MlsLevel) -> bytes:
    """`s0:c0.c5,c7`: a run of three or more categories is its first and last."""
    names = p.sym_val_to_name[SYM_CATS]
    parts: list[bytes] = []
    head = prev = -1
    for bit in [*ebitmap_for_each_positive_bit(level.cat), None]:
        if bit is not None and bit == prev + 1 and head >= 0:
            prev = bit
            continue
        if prev != head:
            parts += [b"." if prev - head > 1 else b",", names[prev + 1]]
        if bit is not None:
            parts += [b"," if parts else b":", names[bit + 1]]
            head = prev = bit
    return p.sym_val_to_name[SYM_LEVELS][level.sens] + b"".join(parts)


def mls_level_isvalid(p: PolicyDb, level: MlsLevel) -> bool:
    """The policy has this sensitivity, with at least these categories."""
    if not 0 < level.sens <= p.p_levels.nprim:
        return False
    levdatum = p.p_levels.table.get(p.sym_val_to_name[SYM_LEVELS][level.sens])
    return levdatum is not None and not level.cat & ~levdatum.level.cat and level.cat.bit_length() <= p.p_cats.nprim


def mls_range_isvalid(p: PolicyDb, r: MlsRange) -> bool:
    return mls_level_isvalid(p, r.low) and mls_level_isvalid(p, r.high) and mls_level_dom(r.high, r.low)


def mls_context_isvalid(p: PolicyDb, c: Context) -> bool:
    """The range exists, and the user may have it (objects may have any)."""
    if not p.mls_enabled:
        return True
    if not mls_range_isvalid(p, c.range):
        return False
    user = p.user_val_to_struct[c.user]
    assert user is not None
    return c.role == OBJECT_R_VAL or mls_range_contains(user.range, c.range)


@notrace
def _level_of_text(p: PolicyDb, text: bytes) -> MlsLevel:
    """Raises EINVAL."""
    sensitivity, colon, categories = text.partition(b":")
    levdatum = p.p_levels.table.get(sensitivity)
    if levdatum is None:
        raise KernelError(EINVAL)
    cat = 0
    for part in categories.split(b",") if colon else ():
        first, dot, last = part.partition(b".")
        catdatum = p.p_cats.table.get(first)
        if catdatum is None:
            raise KernelError(EINVAL)
        cat |= 1 << catdatum.value - 1
        if dot:
            rngdatum = p.p_cats.table.get(last)
            if rngdatum is None or catdatum.value >= rngdatum.value:
                raise KernelError(EINVAL)
            cat |= (1 << rngdatum.value) - (1 << catdatum.value)
    return MlsLevel(levdatum.level.sens, cat)


def mls_context_to_sid(p: PolicyDb, scontext: bytes | None, default: MlsRange | None) -> MlsRange:
    """The range of a context's text behind the type (None: it has none). default: what a text from an extended
    attribute without a range means. Raises EINVAL."""
    if not p.mls_enabled:
        if scontext is not None and default is None:
            raise KernelError(EINVAL)
        return NO_RANGE
    if scontext is None:
        if default is None:
            raise KernelError(EINVAL)
        return default
    low_text, dash, high_text = scontext.partition(b"-")
    low = _level_of_text(p, low_text)
    return MlsRange(low, _level_of_text(p, high_text) if dash else low)


def mls_compute_sid(p: PolicyDb, scontext: Context, tcontext: Context, tclass: int, specified: int,
                    sock: bool) -> MlsRange:
    """The range of a new or relabelled object. sock: its class is one of sockets."""
    if not p.mls_enabled:
        return NO_RANGE
    source, target = scontext.range, tcontext.range
    if specified == AVTAB_TRANSITION:
        wanted = p.range_tr.get((scontext.type, tcontext.type, tclass))
        if wanted is not None:
            return wanted
        default_range = p.class_val_to_struct[tclass].default_range if 0 < tclass <= p.p_classes.nprim else 0
        if default_range == DEFAULT_SOURCE_LOW:
            return MlsRange(source.low, source.low)
        if default_range == DEFAULT_SOURCE_HIGH:
            return MlsRange(source.high, source.high)
        if default_range == DEFAULT_SOURCE_LOW_HIGH:
            return source
        if default_range == DEFAULT_TARGET_LOW:
            return MlsRange(target.low, target.low)
        if default_range == DEFAULT_TARGET_HIGH:
            return MlsRange(target.high, target.high)
        if default_range == DEFAULT_TARGET_LOW_HIGH:
            return target
    if specified in (AVTAB_TRANSITION, AVTAB_CHANGE) and (tclass == p.process_class or sock):
        return source
    return MlsRange(source.low, source.low)
