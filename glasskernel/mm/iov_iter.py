"""Iterators over the memory that a read fills or a write takes from.

Linux: lib/iov_iter.c, include/linux/uio.h. Same: partial copies at a fault. Differs: two classes with one
interface, UserIter (ITER_IOVEC) and KernelIter (ITER_KVEC), instead of a type field.
Invariant: count is what is left; it only falls.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from glasskernel.arch.x86.uaccess import user_page
from glasskernel.kernel.current import current, register
from glasskernel.lib.errno import EFAULT, EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

Buffer = bytes | bytearray | memoryview


class IovIter(Protocol):
    """What file operations see. count: bytes left."""

    count: int

    def copy_to_iter(self, data: Buffer) -> int:
        """Copies data to the iterator's memory and advances; answers how many bytes went.

        Less than len(data) when count is smaller or a page faults; raises EFAULT if not one byte could go.
        """
        ...

    def copy_from_iter(self, size: int) -> bytes:
        """Takes up to `size` bytes and advances. Shorter at a fault; raises EFAULT if not one byte came."""
        ...

    def copy_from_iter_into(self, target: memoryview) -> int:
        """The same straight into a frame of RAM; answers how many bytes came."""
        ...

    def zero(self, size: int) -> int:
        """iov_iter_zero(): copies zeros."""
        ...

    def revert(self, size: int) -> None:
        """Gives the last `size` bytes back, as if they had not been copied."""
        ...


class UserIter:
    """ITER_IOVEC over (address, length) segments of the current task's memory. Context: task; may sleep."""

    __slots__ = ("_done", "_offset", "_segment", "_segments", "count")

    def __init__(self, segments: list[tuple[int, int]]) -> None:
        self._segments = segments
        self._segment = 0
        self._offset = 0
        self._done = 0
        count = 0
        for _, length in segments:
            count += length
        self.count = count

    def _next(self, limit: int, write: int) -> tuple[int, int]:
        """The next run inside one page: (physical address, length <= limit); length 0 at the end."""
        segments = self._segments
        while self._segment < len(segments):
            base, length = segments[self._segment]
            left = length - self._offset
            if left:
                break
            self._segment += 1
            self._offset = 0
        else:
            return 0, 0
        address = base + self._offset
        size = 4096 - (address & 0xFFF)
        if size > left:
            size = left
        if size > limit:
            size = limit
        mm = current().mm
        assert mm is not None
        page = (mm.tlb_write if write else mm.tlb_read).get(address >> 12)
        if page is None:
            page = user_page(address, write)
        return page + (address & 0xFFF), size

    def _advance(self, size: int) -> None:
        self._offset += size
        self.count -= size

    def copy_to_iter(self, data: Buffer) -> int:
        task = register.task
        ram = task.kernel.machine.ram
        size = len(data)
        if size and size <= self.count:                # inside one page that the TLB knows: nearly always
            base, length = self._segments[self._segment]
            address = base + self._offset
            start = address & 0xFFF
            if self._offset + size <= length and start + size <= 4096 and task.mm is not None:
                page = task.mm.tlb_write.get(address >> 12)
                if page is not None:
                    page += start
                    ram[page : page + size] = data
                    self._offset += size
                    self.count -= size
                    return size
        view = data if isinstance(data, memoryview) else memoryview(data)
        size = min(len(view), self.count)
        done = 0
        while done < size:
            try:
                physical, chunk = self._next(size - done, 1)
            except KernelError:
                if done:
                    return done
                raise
            ram[physical : physical + chunk] = view[done : done + chunk]
            self._advance(chunk)
            done += chunk
        return done

    def copy_from_iter(self, size: int) -> bytes:
        task = register.task
        ram = task.kernel.machine.ram
        if 0 < size <= self.count:
            base, length = self._segments[self._segment]
            address = base + self._offset
            start = address & 0xFFF
            if self._offset + size <= length and start + size <= 4096 and task.mm is not None:
                page = task.mm.tlb_read.get(address >> 12)
                if page is not None:
                    page += start
                    self._offset += size
                    self.count -= size
                    return ram[page : page + size].tobytes()
        size = min(size, self.count)
        parts: list[bytes] = []
        done = 0
        while done < size:
            try:
                physical, chunk = self._next(size - done, 0)
            except KernelError:
                if done:
                    break
                raise
            parts.append(ram[physical : physical + chunk].tobytes())
            self._advance(chunk)
            done += chunk
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy_from_iter_into(self, target: memoryview) -> int:
        ram = current().kernel.machine.ram
        size = min(len(target), self.count)
        done = 0
        while done < size:
            try:
                physical, chunk = self._next(size - done, 0)
            except KernelError:
                if done:
                    break
                raise
            target[done : done + chunk] = ram[physical : physical + chunk]
            self._advance(chunk)
            done += chunk
        return done

    def zero(self, size: int) -> int:
        done = 0
        while done < size and self.count:
            chunk = min(size - done, 4096, self.count)
            try:
                copied = self.copy_to_iter(bytes(chunk))
            except KernelError:
                if not done:
                    raise
                break
            done += copied
            if copied < chunk:
                break
        return done

    def revert(self, size: int) -> None:
        self.count += size
        while size > self._offset:
            size -= self._offset
            self._segment -= 1
            self._offset = self._segments[self._segment][1]
        self._offset -= size


class KernelIter:
    """ITER_KVEC over one kernel buffer: bytes to take from, or a bytearray to fill."""

    __slots__ = ("_buffer", "_offset", "count")

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        self._buffer = memoryview(buffer)
        self._offset = 0
        self.count = len(buffer)

    def copy_to_iter(self, data: Buffer) -> int:
        size = min(len(data), self.count)
        self._buffer[self._offset : self._offset + size] = data[:size]
        self._offset += size
        self.count -= size
        return size

    def copy_from_iter(self, size: int) -> bytes:
        size = min(size, self.count)
        data = bytes(self._buffer[self._offset : self._offset + size])
        self._offset += size
        self.count -= size
        return data

    def copy_from_iter_into(self, target: memoryview) -> int:
        data = self.copy_from_iter(len(target))
        target[: len(data)] = data
        return len(data)

    def zero(self, size: int) -> int:
        return self.copy_to_iter(bytes(min(size, self.count)))

    def revert(self, size: int) -> None:
        self._offset -= size
        self.count += size


def iov_iter_alignment(i: IovIter) -> int:
    """The addresses and lengths that are left, ORed: its low bits say how they are aligned."""
    if not isinstance(i, UserIter):
        return i.count
    align = 0
    left = i.count
    offset = i._offset
    for base, length in i._segments[i._segment :]:
        size = min(length - offset, left)
        if size > 0:
            align |= base + offset | size
            left -= size
        offset = 0
    return align


def iov_iter_get_pages(kernel: Kernel, i: IovIter, maxpages: int, write: bool) -> list[tuple[int, int, int]]:
    """Pins up to maxpages frames of the iterator's memory as (pfn, offset, length) with references, and advances.

    write: the frames will be written to (a read from a device). Raises EFAULT if not one could be had, EINVAL for
    a kernel buffer. Context: task; may sleep.
    """
    if not isinstance(i, UserIter):
        raise KernelError(EINVAL)                  # ITER_KVEC has no pages to pin
    pages: list[tuple[int, int, int]] = []
    refcount = kernel.mem.refcount
    while i.count and len(pages) < maxpages:
        try:
            physical, length = i._next(4096, 1 if write else 0)
        except KernelError:
            if not pages:
                raise
            break
        refcount[physical >> 12] += 1
        pages.append((physical >> 12, physical & 0xFFF, length))
        i._advance(length)
    return pages


def import_iovec(entries: list[tuple[int, int]]) -> UserIter:
    """A UserIter over checked (address, length) pairs. Errors: EFAULT for addresses outside user space."""
    for address, length in entries:
        if length and (address >= 0x7FFF_FFFF_F000 or address + length > 0x7FFF_FFFF_F000):
            raise KernelError(EFAULT)
    return UserIter(entries)
