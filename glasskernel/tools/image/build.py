"""`glasskernel image build`: a file system with the files of a tree in it.

Owners, modes, times, links, devices and extended attributes are those of the tree; blocks of zeros become holes.
Invariants: the image is complete or not there; it passes e2fsck.
"""
from __future__ import annotations

import stat
from collections.abc import Callable

from glasskernel.tools.image.geometry import ImageError, MkfsOptions, plan
from glasskernel.tools.image.mkfs import ImageFile, lost_found_blocks
from glasskernel.tools.image.tree import CHUNK, TreeNode, each
from glasskernel.tools.image.writer import ROOT_INO, Ext4Writer, NewInode, Run

LOST_FOUND = b"lost+found"
Told = Callable[[int, int], None]              # bytes done, bytes in all
_MAX_NAME = 255


def needed_size(root: TreeNode, options: MkfsOptions) -> tuple[int, int]:
    """(bytes, inodes) of an image with room for the tree and a quarter more."""
    block = options.block_size or 4096
    data = inodes = 0
    seen: dict[TreeNode, None] = {}
    for node, _ in each(root):
        if node in seen:
            continue
        seen[node] = None
        inodes += 1
        data += -(-max(node.size, 1) // block) * block + (block if node.xattrs else 0)
        data += sum(len(name) + 12 for name in node.children) * 2
    inodes = max(inodes * 5 // 4 + 64, 256)
    size = data * 5 // 4 + inodes * 512 + (8 << 20)
    if options.kind != "ext2":
        size += min(max(size // 16, 8 << 20), 64 << 20)
    return -(-size // (1 << 20)) << 20, inodes


def build(path: str, root: TreeNode, size: int | None, options: MkfsOptions, *, force: bool = False,
          told: Told = lambda _done, _all: None) -> Ext4Writer:
    """Makes an image file. size: None: as large as needed. Raises ImageError."""
    if root.kind != stat.S_IFDIR:
        raise ImageError("the root of an image is a directory")
    if size is None:
        size, inodes = needed_size(root, options)
        options = _with(options, block_size=options.block_size or 4096, inodes=options.inodes or inodes)
    with ImageFile(path, size, force=force) as image:
        plan(size, options)
        image.clear()
        writer = Ext4Writer(plan(size, options), image.write)
        add_tree(writer, root, told)
        writer.add_journal()
        writer.add_resize_inode()
        writer.finish()
    return writer


def _with(options: MkfsOptions, **changes: int) -> MkfsOptions:
    from dataclasses import replace

    return replace(options, **changes)         # type: ignore[arg-type]


def add_tree(writer: Ext4Writer, root: TreeNode, told: Told) -> None:
    """Every file of the tree. Raises ImageError, OSError."""
    now = (writer.options.now * 1_000_000_000,) * 3
    lost_found = TreeNode(stat.S_IFDIR | 0o700, times=now)
    if writer.options.lost_found and LOST_FOUND not in root.children:
        # The first inode that is not reserved, as mke2fs does it.
        root.children = {LOST_FOUND: lost_found, **root.children}
    total = _number(writer, root)
    done = 0
    stored: dict[TreeNode, None] = {}
    for node, parent in each(root):
        if node in stored:
            continue
        stored[node] = None
        new = NewInode(node.mode, node.uid, node.gid, node.size, node.links, node.times, xattrs=node.xattrs)
        if node.kind == stat.S_IFDIR:
            new.links = 2 + sum(child.kind == stat.S_IFDIR for child in node.children.values())
            if new.links > 65000:
                new.links = 1                          # dir_nlink: too many to count
            entries = [(name, child.ino, child.mode) for name, child in node.children.items()]
            least = lost_found_blocks(writer.block_size) if node is lost_found else 1
            blocks = writer.directory_blocks(node.ino, parent.ino, entries, least)
            writer.add_directory(node.ino, new, blocks)
            continue
        if node.kind == stat.S_IFREG:
            new.size, new.runs = _store(writer, node)
        elif node.kind == stat.S_IFLNK:
            if len(node.target) < 60:
                new.data = node.target
            elif len(node.target) >= writer.block_size:
                raise ImageError("the target of a symlink is too long")
            else:
                new.runs = writer.allocate(1)
                writer.put_block(new.runs[0][1], node.target.ljust(writer.block_size, b"\0"))
        elif node.kind in (stat.S_IFCHR, stat.S_IFBLK):
            new.data = _device(*node.rdev)
        writer.add_inode(node.ino, new)
        done += node.size
        told(done, total)


def _number(writer: Ext4Writer, root: TreeNode) -> int:
    """Gives every file an inode, counts its names; the bytes of all. Raises ImageError."""
    total = 0
    root.ino = ROOT_INO
    for node, _ in each(root):
        node.links += 1
        for name in node.children:
            if not name or len(name) > _MAX_NAME or b"/" in name or name in (b".", b".."):
                raise ImageError(f"{name!r} cannot be the name of a file")
        if not node.ino:
            node.ino = writer.new_ino()
            total += node.size
    return total


def _store(writer: Ext4Writer, node: TreeNode) -> tuple[int, list[Run]]:
    """Writes a file's contents. Returns the size and where they are."""
    assert node.content is not None
    size, block, zeros = 0, writer.block_size, bytes(writer.block_size)
    runs: list[Run] = []
    try:
        with node.content() as file:
            while data := _read(file):
                number = size // block
                size += len(data)
                data = data.ljust(-(-len(data) // block) * block, b"\0")
                at = 0
                while at < len(data):
                    end = at
                    while end < len(data) and data[end : end + block] != zeros:
                        end += block
                    for logical, start, count in writer.allocate((end - at) // block, logical=number + at // block):
                        first = (logical - number) * block
                        writer.put_block(start, data[first : first + count * block])
                        _append(runs, (logical, start, count))
                    at = end + block
    except OSError as e:
        raise ImageError(str(e)) from None
    return size, runs


def _read(file: object) -> bytes:
    """A whole chunk, unless the file ends."""
    parts, left = [], CHUNK
    while left:
        part: bytes = file.read(left)          # type: ignore[attr-defined]
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _append(runs: list[Run], run: Run) -> None:
    if runs and runs[-1][0] + runs[-1][2] == run[0] and runs[-1][1] + runs[-1][2] == run[1]:
        runs[-1] = runs[-1][0], runs[-1][1], runs[-1][2] + run[2]
    else:
        runs.append(run)


def _device(major: int, minor: int) -> bytes:
    """As ext4 stores it in i_block: the old form if the numbers fit."""
    if major < 256 and minor < 256:
        return (major << 8 | minor).to_bytes(4, "little")
    return bytes(4) + (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).to_bytes(4, "little")
