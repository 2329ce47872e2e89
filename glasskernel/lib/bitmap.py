"""Lists of numbers as user space writes them: "0-2,5".

Linux: lib/bitmap.c bitmap_parselist() (5.3). Same: ranges, steps ("0-15:2/4": two of every four), blanks between the
    parts. Owns: nothing.
"""
from __future__ import annotations

from glasskernel.lib.errno import EINVAL, ERANGE, KernelError


def bitmap_parselist(text: bytes, nr_bits: int) -> int:
    """The mask of a list. Raises EINVAL, ERANGE (a bit of nr_bits or more)."""
    mask = 0
    for part in text.replace(b",", b" ").split():
        span, _, step = part.partition(b":")
        first, dash, last = span.partition(b"-")
        used, slash, group = step.partition(b"/")
        numbers = [first, last or first, used or b"1", group or b"1"]
        if not all(number.isdigit() for number in numbers) or (dash and not last) or (b":" in part and not slash):
            raise KernelError(EINVAL)
        low, high, width, period = (int(number) for number in numbers)
        if low > high or not period or width > period or not width:
            raise KernelError(EINVAL)
        if high >= nr_bits:
            raise KernelError(ERANGE)
        while low <= high:
            mask |= (1 << min(width, high - low + 1)) - 1 << low
            low += period
    return mask
