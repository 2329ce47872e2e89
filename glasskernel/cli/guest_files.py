"""Files of the guest before it runs: what `--user NAME` and the words after `cannot run:` need to know.

A kernel that has not run anything yet has only the host's files below its root and its shares, so they can be
read without it. Paths are resolved as the guest would: a symlink never leaves the root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Union

import click

from glasskernel.cli.options import RootImage
from glasskernel.fs.hostfs.policy import SYSTEM_ROOT
from glasskernel.machine.hostdir import HostDir

if TYPE_CHECKING:
    from glasskernel.tools.image.files import ImageTree

MAX_SYMLINKS: Final = 40


Tree = Union[HostDir, "ImageTree"]


def guest_files(root: str | RootImage | None, shares: Iterable[tuple[str, str, bool]] = ()) -> GuestFiles:
    """For what --root says. Raises UsageError for an image that cannot be read."""
    if not isinstance(root, RootImage):
        return GuestFiles(root, shares)
    from glasskernel.tools.image.files import ImageTree, open_image
    from glasskernel.tools.image.geometry import ImageError

    try:
        return GuestFiles(ImageTree(open_image(root.path)), shares)
    except ImageError as e:
        raise click.UsageError(f"--root: {root.path}: {e}") from None


class GuestFiles:
    """root: what is the guest's /; None: the system directories. shares: (host, guest path, ...)."""

    def __init__(self, root: str | ImageTree | None, shares: Iterable[tuple[str, str, bool]] = ()) -> None:
        base: Tree = HostDir(root or "/") if root is None or isinstance(root, str) else root
        self._mounts: dict[tuple[bytes, ...], Tree] = {(): base}
        names = SYSTEM_ROOT.root.names
        self._visible = None if root is not None else {name for name, rule in names.items() if not rule.made}
        for host, guest, _ in shares:
            self._mounts[_names(os.fsencode(guest))] = HostDir(host)

    def read(self, path: str, size: int = 1 << 20, cwd: str = "/") -> tuple[bytes, int] | None:
        """The first `size` bytes of a regular file and its length; None if there is none that can be read."""
        found = self._resolve(path, cwd)
        if found is None or not stat.S_ISREG(found[2].st_mode):
            return None
        directory, names, status = found
        buffer = bytearray(min(size, status.st_size))
        try:
            file = directory.open(names)
            count = file.read_into(memoryview(buffer), 0)
            file.close()
        except OSError:
            return None
        return bytes(buffer[:count]), status.st_size

    def is_directory(self, path: str) -> bool:
        found = self._resolve(path, "/")
        return found is not None and stat.S_ISDIR(found[2].st_mode)

    def which(self, program: str, path: str, cwd: str = "/") -> str:
        """The file that execvp(3) would settle on; `program` itself if there is none."""
        if "/" in program:
            return program
        for folder in path.split(":"):
            candidate = f"{folder or '.'}/{program}"
            found = self._resolve(candidate, cwd)
            if found is not None and stat.S_ISREG(found[2].st_mode) and found[2].st_mode & 0o111:
                return candidate
        return program

    def _resolve(self, path: str, cwd: str) -> tuple[Tree, tuple[bytes, ...], os.stat_result] | None:
        full = path if path.startswith("/") else f"{cwd}/{path}"
        todo = list(_names(os.fsencode(full)))
        done: list[bytes] = []
        links = 0
        while True:
            if todo:
                name = todo.pop(0)
                if name == b"..":
                    del done[-1:]
                    continue
                done.append(name)
            directory, names = self._mount_of(tuple(done))
            if self._visible and names and len(names) == len(done) and names[0] not in self._visible:
                return None
            try:
                status = directory.stat(names)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > MAX_SYMLINKS:
                        return None
                    target = directory.readlink(names)
                    done = [] if target[:1] == b"/" else done[:-1]
                    todo = [*_names(target), *todo]
                    continue
            except OSError:
                if todo and any(mount[: len(done)] == tuple(done) for mount in self._mounts):
                    continue  # the guest makes the directories that lead to a share
                return None
            if not todo:
                return directory, names, status

    def _mount_of(self, names: tuple[bytes, ...]) -> tuple[Tree, tuple[bytes, ...]]:
        for length in range(len(names), -1, -1):
            if names[:length] in self._mounts:
                return self._mounts[names[:length]], names[length:]
        raise AssertionError("() is always mounted")


def _names(path: bytes) -> tuple[bytes, ...]:
    return tuple(name for name in path.split(b"/") if name not in (b"", b"."))


def look_up_user(passwd: bytes, name: str) -> tuple[int, int, str] | None:
    """(uid, gid, home) of a user in the text of an /etc/passwd."""
    for line in passwd.decode(errors="surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[0] == name and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3]), fields[5]
    return None
