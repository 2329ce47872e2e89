"""What an image is built from: a directory of the host, or a tar archive, as one tree of files.

Invariants: nothing outside the directory is read (symlinks are taken as they are); of an archive, the last entry of a
    name wins, names never leave the tree, and a hard link only leads to a file of the archive.
"""
from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from glasskernel.tools.image.geometry import ImageError

CHUNK = 1 << 20


@dataclass(slots=True, eq=False)
class TreeNode:
    """A file to be. content: opens a regular file; the files with the same TreeNode are hard links."""

    mode: int
    uid: int = 0
    gid: int = 0
    times: tuple[int, int, int] = (0, 0, 0)    # access, change, modification in ns
    size: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    content: Callable[[], IO[bytes]] | None = None
    children: dict[bytes, TreeNode] = field(default_factory=dict)
    ino: int = 0
    links: int = 0

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


def read_directory(folder: str) -> TreeNode:
    """The tree below a directory of the host. Raises ImageError."""
    known: dict[tuple[int, int], TreeNode] = {}

    def visit(path: bytes) -> TreeNode:
        status = os.lstat(path)
        key = status.st_dev, status.st_ino
        if key in known and not stat.S_ISDIR(status.st_mode):
            return known[key]
        node = known[key] = TreeNode(
            status.st_mode, status.st_uid, status.st_gid,
            (status.st_atime_ns, status.st_ctime_ns, status.st_mtime_ns), xattrs=_host_xattrs(path))
        if node.kind == stat.S_IFREG:
            node.size = status.st_size
            node.content = lambda: open(path, "rb")        # noqa: SIM115
        elif node.kind == stat.S_IFLNK:
            node.target = os.readlink(path)
            node.size = len(node.target)
        elif node.kind in (stat.S_IFCHR, stat.S_IFBLK):
            node.rdev = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif node.kind == stat.S_IFDIR:
            for name in sorted(os.listdir(path)):
                node.children[name] = visit(path + b"/" + name)
        return node

    try:
        return visit(os.fsencode(os.path.realpath(folder)))
    except OSError as e:
        raise ImageError(f"{e.filename!r}: {e.strerror}" if e.filename else str(e)) from None


def _host_xattrs(path: bytes) -> dict[bytes, bytes]:
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            found[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    return found


def read_tar(path: str) -> tuple[TreeNode, IO[bytes]]:
    """The tree of an archive, and its file, to be closed when the contents have been read. Raises ImageError."""
    root = TreeNode(stat.S_IFDIR | 0o755)
    file: IO[bytes] | None = None
    try:
        file = _seekable(path)
        tar = tarfile.open(fileobj=file, errors="surrogateescape")          # noqa: SIM115
        for member in tar:
            _add_member(root, tar, member)
    except (tarfile.TarError, EOFError, OSError, ImageError) as e:
        if file is not None:
            file.close()
        if isinstance(e, ImageError):
            raise
        raise ImageError(f"{path} is not a tar archive that can be read: {e}") from None
    assert file is not None
    return root, file


def _seekable(path: str) -> IO[bytes]:
    """The archive; what comes through a pipe is kept in a temporary file first, since contents are read later."""
    file = open(path, "rb")                                     # noqa: SIM115
    if file.seekable():
        return file
    with file:
        kept = tempfile.TemporaryFile()                         # noqa: SIM115
        shutil.copyfileobj(file, kept, CHUNK)
    kept.seek(0)
    return kept


_KINDS = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR,
          tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}


def _add_member(root: TreeNode, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    names = _names(member.name)
    if b".." in names:
        raise ImageError(f"{member.name}: leads out of the archive")
    if member.islnk():
        linked = _find(root, _names(member.linkname))
        if linked is None or linked.kind == stat.S_IFDIR:
            raise ImageError(f"{member.name}: a hard link to nothing")
        _parent(root, names).children[names[-1]] = linked
        return
    time = (int(member.mtime * 1_000_000_000),) * 3
    kind = _KINDS.get(member.type, stat.S_IFREG)
    node = TreeNode(kind | member.mode & 0o7777, member.uid, member.gid, time, rdev=(member.devmajor, member.devminor))
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            node.xattrs[key[13:].encode(errors="surrogateescape")] = value.encode(errors="surrogateescape")
    if kind == stat.S_IFREG:
        node.size = member.size
        node.content = lambda: tar.extractfile(member)          # type: ignore[assignment]
    elif kind == stat.S_IFLNK:
        node.target = os.fsencode(member.linkname)
        node.size = len(node.target)
    if not names:
        node.children = root.children
        root.mode, root.uid, root.gid, root.times, root.xattrs = node.mode, node.uid, node.gid, time, node.xattrs
        return
    siblings = _parent(root, names).children
    before = siblings.get(names[-1])
    if kind == stat.S_IFDIR and before is not None:
        node.children = before.children
    siblings[names[-1]] = node


def _names(path: str) -> list[bytes]:
    return [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]


def _find(root: TreeNode, names: list[bytes]) -> TreeNode | None:
    node: TreeNode | None = root
    for name in names:
        node = node.children.get(name) if node is not None else None
    return node


def _parent(root: TreeNode, names: list[bytes]) -> TreeNode:
    """The directory of the last name; those that the archive has left out are made."""
    if not names:
        raise ImageError("an entry without a name")
    node = root
    for name in names[:-1]:
        child = node.children.get(name)
        if child is None or child.kind != stat.S_IFDIR:
            child = node.children[name] = TreeNode(stat.S_IFDIR | 0o755, times=root.times)
        node = child
    return node


def each(root: TreeNode) -> Iterator[tuple[TreeNode, TreeNode]]:
    """(node, its directory) of every name, directories before what they hold."""
    pending = [(root, root)]
    while pending:
        node, parent = pending.pop()
        yield node, parent
        pending += [(child, node) for child in reversed(node.children.values())]
