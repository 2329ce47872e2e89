"""`--root TAR`: the archive as a host directory that the guest's / is made of.

Everything goes through HostDir, which follows no symlink and knows no `..`: an archive cannot reach anything
outside the folder, and a hard link cannot bring a file of the host in. Device nodes are left out (the guest
has its own /dev). Owners are kept only when we are root.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from contextlib import suppress

from glasskernel.machine.hostdir import HostDir, Names


class BadArchive(Exception):
    """Not to be unpacked; the text says why."""


def unpack_tar(archive: str, folder: str) -> None:
    """Unpacks into an empty directory. Raises BadArchive."""
    target = HostDir(folder, writable=True)
    try:
        with tarfile.open(archive, errors="surrogateescape") as tar:
            directories: dict[Names, int] = {}
            for member in tar:
                try:
                    _unpack_member(tar, member, target, directories)
                except OSError as e:
                    raise BadArchive(f"{member.name}: {e.strerror}") from None
            for path, mode in directories.items():
                target.chmod(path, mode)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise BadArchive(str(e)) from None
    finally:
        target.close()


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: HostDir, directories: dict[Names, int]
) -> None:
    path = _path(member.name)
    if not path:
        return
    for depth in range(1, len(path)):
        if path[:depth] not in directories:
            _make_directory(target, path[:depth], directories, 0o755)
    if member.isdir():
        _make_directory(target, path, directories, member.mode)
        return
    if not (member.issym() or member.islnk() or member.isfile() or member.isfifo()):
        return
    with suppress(FileNotFoundError):
        target.unlink(path)  # the last entry of a name wins
    if member.issym():
        target.symlink(path, os.fsencode(member.linkname))
    elif member.islnk():
        target.link(_path(member.linkname), path)
    elif member.isfifo():
        target.mkfifo(path, member.mode)
    else:
        source = tar.extractfile(member)
        assert source is not None
        file = target.create(path, 0o600)
        with open(os.dup(file.fd()), "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        if os.geteuid() == 0:
            os.fchown(file.fd(), member.uid, member.gid)
        os.fchmod(file.fd(), member.mode & 0o7777)
        os.utime(file.fd(), (member.mtime, member.mtime))
        file.close()


def _make_directory(target: HostDir, path: Names, directories: dict[Names, int], mode: int) -> None:
    # Ours to write in until everything is there.
    if path not in directories:
        target.mkdir(path, 0o700)
    directories[path] = mode


def _path(name: str) -> Names:
    return tuple(part for part in os.fsencode(name).split(b"/") if part not in (b"", b"."))
