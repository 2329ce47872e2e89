"""Error sequences: an error that happened is told once to everybody who looks, and to nobody twice.

Linux: lib/errseq.c (5.3). Same: an errseq_t is one number: the errno in the low 12 bits, the "seen" bit, a counter that
    moves when an error comes after the last one was seen.
Differs: a function answers the new number where Linux changes it in place; errnos are positive.
"""
from __future__ import annotations

from glasskernel.lib.types import notrace

ERRSEQ_SHIFT = 12
ERRSEQ_SEEN = 1 << ERRSEQ_SHIFT
ERRSEQ_CTR_INC = 1 << (ERRSEQ_SHIFT + 1)
_MAX_ERRNO = ERRSEQ_SEEN - 1


def errseq_set(eseq: int, errno: int) -> int:
    """The sequence after one more error."""
    new = eseq & ~(_MAX_ERRNO | ERRSEQ_SEEN) | errno
    if eseq & ERRSEQ_SEEN:
        new = new + ERRSEQ_CTR_INC & 0xFFFF_FFFF
    return new


def errseq_sample(eseq: int) -> int:
    """What a new reader starts with: an error that nobody has seen yet counts as new for it."""
    return eseq if eseq & ERRSEQ_SEEN else 0


def errseq_check(eseq: int, since: int) -> int:
    """The errno of an error after `since`, or 0."""
    return 0 if eseq == since else eseq & _MAX_ERRNO


@notrace
def errseq_mark_seen(eseq: int) -> int:
    """The sequence once somebody has been told."""
    return eseq | ERRSEQ_SEEN if eseq else 0
