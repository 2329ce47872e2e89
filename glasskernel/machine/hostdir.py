"""A directory of the host, lent to the guest: the only code that touches files of the host.

Every access starts at the descriptor of one directory and walks down name by name with `dir_fd` and
O_NOFOLLOW. So no symlink of the host is ever followed, `..` cannot be said, and replacing a directory by a
symlink between two calls leads to an error, never outside.

Owns: the descriptors. At most MAX_DIRS directories and MAX_FILES files are open at once; the least recently
    used is closed and opened again by path, which must then still lead to the same (st_dev, st_ino).
Invariants: a path is a tuple of names; none is empty, ".", ".." or holds "/" or NUL. A HostFile's descriptor
    is a regular file's. Nothing is written unless `writable`.
Errors: OSError with the host's errno; it is the caller who makes it an error of the guest.
Determinism: names are listed in byte order. No time of the host is read here except the files' own.
"""
from __future__ import annotations

import os
import stat

Names = tuple[bytes, ...]

MAX_DIRS = 64
MAX_FILES = 128

_ENOENT, _ENXIO, _EROFS, _ESTALE = 2, 6, 30, 116
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BAD = (b"", b".", b"..")
# A guest must not be able to leave a set-user-ID program on the host.
_MODE_BITS = 0o1777


class HostDir:
    """One directory of the host and everything beneath it, seen through names only."""

    __slots__ = ("_dirs", "_files", "_fd", "writable")

    def __init__(self, path: str | bytes, writable: bool = False) -> None:
        """path: a directory; the user's own choice, so symlinks in it are followed."""
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._dirs: dict[Names, int] = {}               # path -> descriptor, least recently used first
        self._files: dict[HostFile, None] = {}          # those with a descriptor, least recently used first
        self.writable = writable

    def close(self) -> None:
        """Gives all descriptors back."""
        for fd in self._dirs.values():
            os.close(fd)
        self._dirs.clear()
        for file in list(self._files):
            file.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):               # __init__ may have failed
            self.close()

    # ---- walking -------------------------------------------------------------------------------------------
    def _dir(self, path: Names) -> int:
        """A descriptor of the directory `path`; valid until the next call."""
        if not path:
            return self._fd
        dirs = self._dirs
        fd = dirs.pop(path, -1)
        if fd < 0:
            name = path[-1]
            if name in _BAD or b"/" in name or b"\0" in name:
                raise OSError(_ENOENT, "not a name")
            fd = os.open(name, _WALK, dir_fd=self._dir(path[:-1]))
            while len(dirs) >= MAX_DIRS:
                oldest = next(iter(dirs))
                os.close(dirs.pop(oldest))
        dirs[path] = fd
        return fd

    def _at(self, path: Names) -> tuple[int, bytes]:
        """(descriptor of the parent directory, checked last name)"""
        name = path[-1]
        if name in _BAD or b"/" in name or b"\0" in name:
            raise OSError(_ENOENT, "not a name")
        return self._dir(path[:-1]), name

    def _forget(self, path: Names) -> None:
        """Directories at and below `path` have moved or gone."""
        depth = len(path)
        for known in [p for p in self._dirs if p[:depth] == path]:
            os.close(self._dirs.pop(known))

    def _check_writable(self) -> None:
        if not self.writable:
            raise OSError(_EROFS, "not shared for writing")

    # ---- looking -------------------------------------------------------------------------------------------
    def stat(self, path: Names) -> os.stat_result:
        """lstat(2): symlinks are themselves. Drops remembered directories that the host has replaced."""
        if not path:
            return os.stat(self._fd)
        fd, name = self._at(path)
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            self._forget(path)
            raise
        known = self._dirs.get(path)
        if known is not None:
            then = os.stat(known)
            if then.st_ino != st.st_ino or then.st_dev != st.st_dev:
                self._forget(path)
        return st

    def readlink(self, path: Names) -> bytes:
        """The text of a symlink."""
        fd, name = self._at(path)
        return os.readlink(name, dir_fd=fd)

    def list(self, path: Names) -> list[tuple[bytes, int, int]]:
        """(name, st_ino, file type as S_IFMT bits) of every entry, in byte order, without "." and ".."."""
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dir(path))
        try:
            found = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        kind = stat.S_IFLNK
                    elif entry.is_dir(follow_symlinks=False):
                        kind = stat.S_IFDIR
                    elif entry.is_file(follow_symlinks=False):
                        kind = stat.S_IFREG
                    else:
                        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                    found.append((os.fsencode(entry.name), entry.inode(), kind))
        finally:
            os.close(fd)
        found.sort()
        return found

    def statvfs(self) -> os.statvfs_result:
        """statvfs(3) of the shared directory."""
        return os.statvfs(self._fd)

    def open(self, path: Names, write: bool = False) -> HostFile:
        """A regular file. Errors: ENXIO for anything that is not one, ELOOP for a symlink."""
        if write:
            self._check_writable()
        file = HostFile(self, path, write)
        file.fd()
        return file

    # ---- changing ------------------------------------------------------------------------------------------
    def create(self, path: Names, mode: int) -> HostFile:
        """Makes a new regular file (EEXIST if there is one) and opens it for writing."""
        self._check_writable()
        fd, name = self._at(path)
        new = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=fd)
        os.fchmod(new, mode & _MODE_BITS)
        file = HostFile(self, path, True)
        file.adopt(new)
        return file

    def mkdir(self, path: Names, mode: int) -> None:
        self._check_writable()
        fd, name = self._at(path)
        os.mkdir(name, 0o700, dir_fd=fd)
        self.chmod(path, mode)

    def mkfifo(self, path: Names, mode: int) -> None:
        self._check_writable()
        fd, name = self._at(path)
        os.mkfifo(name, mode & _MODE_BITS, dir_fd=fd)

    def symlink(self, path: Names, text: bytes) -> None:
        self._check_writable()
        fd, name = self._at(path)
        os.symlink(text, name, dir_fd=fd)

    def link(self, old: Names, new: Names) -> None:
        self._check_writable()
        old_fd, old_name = self._at(old)
        old_fd = os.dup(old_fd)                        # the second walk may close the first descriptor
        try:
            fd, name = self._at(new)
            os.link(old_name, name, src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(old_fd)

    def unlink(self, path: Names) -> None:
        """Open files at `path` keep their descriptor, so they can be used on."""
        self._check_writable()
        fd, name = self._at(path)
        os.unlink(name, dir_fd=fd)

    def rmdir(self, path: Names) -> None:
        self._check_writable()
        fd, name = self._at(path)
        os.rmdir(name, dir_fd=fd)
        self._forget(path)

    def rename(self, old: Names, new: Names) -> None:
        """rename(2): replaces `new`. The caller renames the HostFiles it keeps."""
        self._check_writable()
        old_fd, old_name = self._at(old)
        old_fd = os.dup(old_fd)
        try:
            fd, name = self._at(new)
            os.rename(old_name, name, src_dir_fd=old_fd, dst_dir_fd=fd)
        finally:
            os.close(old_fd)
        self._forget(old)
        self._forget(new)

    def chmod(self, path: Names, mode: int) -> None:
        """Of a regular file or directory; never set-user-ID or set-group-ID."""
        self._check_writable()
        fd = self._open_any(path)
        try:
            os.fchmod(fd, mode & _MODE_BITS)
        finally:
            os.close(fd)

    def utime(self, path: Names, atime_ns: int, mtime_ns: int) -> None:
        """Sets both times (ns since the Epoch) of the entry itself, symlink or not."""
        self._check_writable()
        if not path:
            fd = self._open_any(path)
            try:
                os.utime(fd, ns=(atime_ns, mtime_ns))
            finally:
                os.close(fd)
            return
        fd, name = self._at(path)
        os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _open_any(self, path: Names) -> int:
        """A new descriptor of a directory or a regular file; for writing if reading is not allowed."""
        if not path:
            return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        dir_fd, name = self._at(path)
        try:
            fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=dir_fd)
        except PermissionError:
            fd = os.open(name, os.O_WRONLY | _FILE, dir_fd=dir_fd)
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            os.close(fd)
            raise OSError(_ENXIO, "not a file or directory")
        return fd

    # ---- descriptors of files ------------------------------------------------------------------------------
    def _file_opened(self, file: HostFile) -> None:
        files = self._files
        files[file] = None
        if len(files) > MAX_FILES:
            for other in files:                        # the oldest that can be found again
                if not other.unlinked and other is not file:
                    other.close()
                    break

    def _file_used(self, file: HostFile) -> None:
        files = self._files
        if len(files) > MAX_FILES // 2:                # order matters only when space is short
            files.pop(file, None)
            files[file] = None

    def _file_closed(self, file: HostFile) -> None:
        self._files.pop(file, None)


class HostFile:
    """An open regular file of the host. Offsets and sizes in bytes.

    path: where to find it again after its descriptor was closed to save some; the owner changes it after
        a rename, and sets `unlinked` when there is no name left.
    """

    __slots__ = ("_fd", "_host", "_key", "path", "unlinked", "write_mode")

    def __init__(self, host: HostDir, path: Names, write_mode: bool) -> None:
        self._host = host
        self._fd = -1
        self._key = (0, 0)
        self.path = path
        self.unlinked = False
        self.write_mode = write_mode

    def adopt(self, fd: int) -> None:
        """Takes a fresh descriptor. ENXIO if it is not a regular file, ESTALE if it is another one."""
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise OSError(_ENXIO, "not a regular file")
        key = (st.st_dev, st.st_ino)
        if self._key != (0, 0) and self._key != key:
            os.close(fd)
            raise OSError(_ESTALE, "replaced on the host")
        self._key = key
        self._fd = fd
        self._host._file_opened(self)

    def fd(self) -> int:
        fd = self._fd
        if fd < 0:
            dir_fd, name = self._host._at(self.path)
            self.adopt(os.open(name, (os.O_RDWR if self.write_mode else os.O_RDONLY) | _FILE, dir_fd=dir_fd))
            return self._fd
        self._host._file_used(self)
        return fd

    def close(self) -> None:
        """Gives the descriptor back; the next use opens the file again."""
        if self._fd >= 0:
            self._host._file_closed(self)
            os.close(self._fd)
            self._fd = -1

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd())

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fills target from `offset`; answers how many bytes there were (less at the end of the file)."""
        fd = self.fd()
        done = os.preadv(fd, [target], offset)
        while 0 < done < len(target):
            more = os.preadv(fd, [target[done:]], offset + done)
            if more == 0:
                break
            done += more
        return done

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Writes all of data at `offset`; answers how many bytes went (less when the disk is full)."""
        fd = self.fd()
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(fd, view[done:], offset + done)
            except OSError:
                if done:
                    break
                raise
        return done

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd(), size)

    def allocate(self, offset: int, size: int) -> None:
        """posix_fallocate(3): disk space for the range; the file grows if it must."""
        os.posix_fallocate(self.fd(), offset, size)

    def sync(self, data_only: bool) -> None:
        if data_only:
            os.fdatasync(self.fd())
        else:
            os.fsync(self.fd())
