"""An empty file system, and what is done to a file so that it holds one.

Owns: nothing. Invariants: a file that is not empty is only written over when that was asked for; a new one appears
    whole or not at all.
"""
from __future__ import annotations

import os
from collections.abc import Callable

from glasskernel.tools.image.geometry import ImageError, MkfsOptions, plan
from glasskernel.tools.image.writer import ROOT_INO, S_IFDIR, Ext4Writer, NewInode, Write


def mkfs(size: int, write: Write, options: MkfsOptions) -> Ext4Writer:
    """Writes an empty file system to a device of zeros. Raises ImageError."""
    writer = Ext4Writer(plan(size, options), write)
    make_root(writer, options.lost_found)
    writer.add_journal()
    writer.add_resize_inode()
    writer.finish()
    return writer


def make_root(writer: Ext4Writer, lost_found: bool) -> None:
    """The root directory, perhaps with lost+found, which has room for what fsck may find."""
    options = writer.options
    now = (options.now * 1_000_000_000,) * 3
    uid, gid = options.root_owner
    entries = []
    if lost_found:
        ino = writer.new_ino()
        entries.append((b"lost+found", ino, S_IFDIR))
    root = NewInode(S_IFDIR | options.root_mode, uid, gid, links=2 + lost_found, times=now)
    writer.add_directory(ROOT_INO, root, writer.directory_blocks(ROOT_INO, ROOT_INO, entries))
    if lost_found:
        blocks = writer.directory_blocks(ino, ROOT_INO, (), lost_found_blocks(writer.block_size))
        writer.add_directory(ino, NewInode(S_IFDIR | 0o700, links=2, times=now), blocks)


def lost_found_blocks(block_size: int) -> int:
    """So that fsck need not allocate: 16 KB, but no indirect block."""
    return min(max(16384 // block_size, 2), 12)


class ImageFile:
    """A (sparse) image file that is being written. force: over what is there.

    As a context manager: an error leaves a file that was there as it was made shorter or longer, a new one is removed.
    """

    def __init__(self, path: str, size: int | None, *, force: bool = False) -> None:
        self.path = path
        self.new = not os.path.lexists(path)
        if not self.new and not os.path.isfile(path):
            raise ImageError(f"{path} is not a regular file")
        if not self.new and not force and not _empty(path):
            raise ImageError(f"{path} is there already and not empty: --force writes over it")
        if self.new and size is None:
            raise ImageError(f"{path} does not exist: --size says how large to make it")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if self.new else 0)
        try:
            self.fd = os.open(path, flags, 0o666)
        except OSError as e:
            raise ImageError(f"{path}: {e.strerror}") from None
        self.size = size if size is not None else os.fstat(self.fd).st_size

    def clear(self) -> None:
        """The file becomes `size` zeros that need no space."""
        try:
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, self.size)
        except OSError as e:
            raise ImageError(f"{self.path}: {e.strerror}") from None

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self.fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as e:
            raise ImageError(f"{self.path}: {e.strerror}") from None

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        os.close(self.fd)
        if kind is not None and self.new:
            os.unlink(self.path)


def _empty(path: str) -> bool:
    """Is nothing but zeros in the file? Only what needs space is looked at."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return True
            file.seek(at)
            part = file.read(1 << 20)
            if not part or part.count(0) != len(part):
                return not part
            at += len(part)
    return True


def mkfs_file(path: str, size: int | None, options: MkfsOptions, *, force: bool = False,
              told: Callable[[str], None] = lambda _text: None) -> Ext4Writer:
    """Makes a file system in a file. Raises ImageError; then the file is as it was, or gone if it is new."""
    with ImageFile(path, size, force=force) as image:
        plan(image.size, options)                       # may raise: before anything is lost
        image.clear()
        writer = mkfs(image.size, image.write, options)
    geometry = writer.geometry
    told(f"{options.kind}: {geometry.blocks_count} blocks of {geometry.block_size} bytes, "
         f"{geometry.groups * geometry.inodes_per_group} inodes, a journal of {geometry.journal_blocks} blocks")
    return writer
