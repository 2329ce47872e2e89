"""`glasskernel mkfs` and `glasskernel image`.

Invariants: thin. What an image holds is made and read by tools.image; mistakes are one line, exit status 1.
"""

from __future__ import annotations

import os
import sys
import time
import uuid as uuids
from typing import Any

import click

from glasskernel.tools.image.geometry import ImageError, MkfsOptions


def make_file_system(file: str, *, size: int | None, force: bool, **options: Any) -> int:
    """mkfs"""
    from glasskernel.tools.image.mkfs import mkfs_file

    try:
        mkfs_file(file, size, mkfs_settings(**options), force=force, told=lambda text: click.echo(f"{file}: {text}"))
    except ImageError as e:
        raise click.ClickException(str(e)) from None
    return 0


def build_image(output: str, source: str, *, size: int | None, force: bool, **options: Any) -> int:
    """image build"""
    from contextlib import ExitStack

    from glasskernel.tools.image.build import build
    from glasskernel.tools.image.tree import read_directory, read_tar

    with ExitStack() as stack:
        try:
            if os.path.isdir(source):
                root = read_directory(source)
            else:
                root, archive = read_tar(source)
                stack.enter_context(archive)
            progress = Progress()
            stack.callback(progress.end)
            writer = build(output, root, size, mkfs_settings(**options), force=force, told=progress.show)
        except ImageError as e:
            raise click.ClickException(str(e)) from None
        progress.end()
        geometry = writer.geometry
        files = len(writer.inodes)
        click.echo(f"{output}: {files} inodes in use, {geometry.blocks_count * geometry.block_size >> 20} MB")
    return 0


class Progress:
    """A line on a terminal that says how far it is."""

    def __init__(self) -> None:
        self._wanted = sys.stderr.isatty()
        self._last = -1

    def show(self, done: int, total: int) -> None:
        percent = done * 100 // max(total, 1)
        if self._wanted and percent != self._last:
            self._last = percent
            print(f"\r{percent:3d} % of {total >> 20} MB", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._last >= 0:
            print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
        self._last, self._wanted = -1, False


def mkfs_settings(
    *, kind: str, label: str, uuid: str | None, block_size: str | None, inode_size: int | None,
    inode_ratio: int | None, inodes: int | None, journal_mb: int | None, reserved: float, features: str,
) -> MkfsOptions:
    """The options of the command line; the time is SOURCE_DATE_EPOCH, if that is set. Raises UsageError."""
    name = label.encode(errors="surrogateescape")
    if len(name) > 16:
        raise click.UsageError(f"--label: {label!r} is longer than 16 bytes")
    try:
        identity = uuids.UUID(uuid) if uuid is not None else uuids.uuid4()
    except ValueError:
        raise click.UsageError(f"--uuid: {uuid!r} is no UUID") from None
    words = tuple(word for word in features.split(",") if word)
    return MkfsOptions(
        kind=kind, block_size=int(block_size) if block_size else None, inode_size=inode_size, inode_ratio=inode_ratio,
        inodes=inodes, reserved_percent=reserved, journal_mb=journal_mb, label=name, uuid=identity.bytes,
        features=words, now=int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()),
    )


def list_image(file: str, path: str) -> int:
    """image ls: mode, links, owner, group, size or device numbers, time, name."""
    import stat

    from glasskernel.tools.image.files import open_image

    try:
        image = open_image(file)
        node = image.lookup(os.fsencode(path))
        names = sorted(image.entries(node)) if stat.S_ISDIR(node.mode) else [(os.fsencode(path), node.ino)]
        for name, ino in names:
            here = image.node(ino)
            size = str(here.size)
            if here.kind in (stat.S_IFCHR, stat.S_IFBLK):
                size = f"{here.rdev[0]}, {here.rdev[1]}"
            when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(here.mtime_ns // 1_000_000_000))
            arrow = b" -> " + image.target(here) if here.kind == stat.S_IFLNK else b""
            line = f"{stat.filemode(here.mode)} {here.links:3d} {here.uid:5d} {here.gid:5d} {size:>10} {when} "
            sys.stdout.buffer.write(line.encode() + name + arrow + b"\n")
    except BrokenPipeError:
        raise
    except (ImageError, OSError) as e:
        raise click.ClickException(_told(path, e)) from None
    return 0


def show_file(file: str, path: str) -> int:
    """image cat"""
    import stat

    from glasskernel.tools.image.files import open_image

    try:
        image = open_image(file)
        node = image.lookup(os.fsencode(path))
        if not stat.S_ISREG(node.mode):
            raise click.ClickException(f"{path} is not a regular file")
        at = 0
        for offset, data in image.chunks(node):
            _zeros(offset - at)
            sys.stdout.buffer.write(data)
            at = offset + len(data)
        _zeros(node.size - at)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except (ImageError, OSError) as e:
        raise click.ClickException(_told(path, e)) from None
    return 0


def _zeros(count: int) -> None:
    while count > 0:
        sys.stdout.buffer.write(bytes(min(count, 1 << 20)))
        count -= 1 << 20


def extract_files(file: str, path: str, folder: str) -> int:
    """image extract"""
    from glasskernel.tools.image.files import extract, open_image

    try:
        image = open_image(file)
        count = extract(image, image.lookup(os.fsencode(path)), folder)
    except (ImageError, OSError) as e:
        raise click.ClickException(_told(path, e)) from None
    click.echo(f"{folder}: {count} files")
    return 0


def _told(path: str, error: Exception) -> str:
    return f"{path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
