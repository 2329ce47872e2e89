"""What is in an image file: for `glasskernel image ls`, cat and extract, and for looking up users of a root image."""
from __future__ import annotations

import os
import weakref
from collections.abc import Iterator

from glasskernel.machine.hostdir import HostDir, Names
from glasskernel.tools.image.geometry import ImageError
from glasskernel.tools.image.partitions import partitions
from glasskernel.tools.image.reader import S_IFDIR, S_IFLNK, S_IFREG, Ext4Image, Node

S_IFIFO = 0o010000
MAX_FILE = 16 << 40


def open_image(path: str) -> Ext4Image:
    """The file system in an image: of the whole file, or of its last partition that has one. Raises ImageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise ImageError(f"{path}: {e.strerror}") from None

    def read(offset: int, length: int) -> bytes:
        return os.pread(fd, length, offset)

    try:
        size = os.fstat(fd).st_size
        for start in (0, *(start for _, start, _ in reversed(partitions(read, size)))):
            if start + 2048 <= size and read(start + 1080, 2) == b"\x53\xef":
                image = Ext4Image(read, start)
                weakref.finalize(image, os.close, fd)
                return image
        raise ImageError(f"{path} has no ext2, ext3 or ext4 file system")
    except (OSError, ImageError) as e:
        os.close(fd)
        raise ImageError(str(e)) from None


class ImageTree:
    """An image with the methods of a HostDir that looking at files needs."""

    def __init__(self, image: Ext4Image) -> None:
        self._image = image

    def _node(self, names: Names) -> Node:
        try:
            node = self._image.node(2)
            for name in names:
                node = self._image.child(node, name)
            return node
        except ImageError as e:
            raise OSError(5, str(e)) from None

    def stat(self, names: Names) -> os.stat_result:
        node = self._node(names)
        seconds = node.mtime_ns // 1_000_000_000
        return os.stat_result((node.mode, node.ino, 0, node.links, node.uid, node.gid, node.size, *[seconds] * 3))

    def readlink(self, names: Names) -> bytes:
        return self._image.target(self._node(names))

    def open(self, names: Names) -> ImageFileReader:
        return ImageFileReader(self._image, self._node(names))


class ImageFileReader:
    """An open file of an image."""

    def __init__(self, image: Ext4Image, node: Node) -> None:
        self._image = image
        self._node = node

    def read_into(self, to: memoryview, offset: int) -> int:
        data = self._image.contents(self._node, offset + len(to))[offset:]
        to[: len(data)] = data
        return len(data)

    def close(self) -> None:
        pass


def walk(image: Ext4Image, node: Node, path: bytes) -> Iterator[tuple[bytes, Node]]:
    """A file and all below it, a directory before what it holds. Raises ImageError."""
    pending = [(path, node)]
    seen: dict[int, None] = {}
    while pending:
        where, here = pending.pop()
        yield where, here
        if here.kind == S_IFDIR:
            if here.ino in seen:
                raise ImageError("a directory is in two places: the image is damaged")
            seen[here.ino] = None
            entries = sorted(image.entries(here), reverse=True)
            pending += [(where.rstrip(b"/") + b"/" + name, image.node(ino)) for name, ino in entries]


def extract(image: Ext4Image, node: Node, folder: str) -> int:
    """Copies files out into a directory of the host, which is made if it is missing. Returns how many files.

    Everything goes through HostDir: no symlink of the image leads out of the folder. Devices are left out; owners are
    kept when we are root. Raises ImageError, OSError.
    """
    os.makedirs(folder, exist_ok=True)
    target = HostDir(folder, writable=True)
    count = 0
    directories: list[tuple[Names, Node]] = []
    links: dict[int, Names] = {}
    try:
        for path, here in walk(image, node, b""):
            names: Names = tuple(name for name in path.split(b"/") if name)
            if here.kind == S_IFDIR:
                if names:
                    target.mkdir(names, 0o700)
                directories.append((names, here))
            elif here.links > 1 and here.ino in links:
                target.link(links[here.ino], names)
            elif here.kind == S_IFREG:
                _extract_file(image, here, target, names or (os.fsencode("file"),))
                links[here.ino] = names
            elif here.kind == S_IFLNK:
                target.symlink(names, image.target(here))
            elif here.kind == S_IFIFO:
                target.mkfifo(names, here.mode & 0o7777)
            else:
                continue
            count += 1
        for names, here in reversed(directories):
            if names:
                target.chmod(names, here.mode & 0o7777)
    finally:
        target.close()
    return count


def _extract_file(image: Ext4Image, node: Node, target: HostDir, names: Names) -> None:
    if node.size > MAX_FILE:
        raise ImageError("a file is impossibly large: the image is damaged")
    file = target.create(names, 0o600)
    fd = file.fd()
    try:
        os.ftruncate(fd, node.size)
        for offset, data in image.chunks(node):
            os.pwrite(fd, data, offset)
        if os.geteuid() == 0:
            os.fchown(fd, node.uid, node.gid)
        os.fchmod(fd, node.mode & 0o7777)
        os.utime(fd, ns=(node.mtime_ns, node.mtime_ns))
    finally:
        file.close()
