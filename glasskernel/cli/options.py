"""The values that command-line options take, and how they are checked.

Owns: the click parameter types and the option groups (`machine_options`, `process_options`, ...).
Invariants: nothing here imports the kernel, so that `--help` and a mistyped option answer at once. A value
    that passes is usable: what is wrong with it is said here, in one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    ParamTypeBase = click.ParamType[Any]
else:
    ParamTypeBase = click.ParamType

C = TypeVar("C", bound=Callable[..., Any])

MIN_MEMORY: Final = 32 << 20
MAX_MEMORY: Final = 64 << 30
MIN_IMAGE: Final = 64 << 10
MAX_IMAGE: Final = 16 << 40
NEW_DISK: Final = 1 << 30
MAX_CPUS: Final = 64
MAX_NODES: Final = 64
COMMAND_LINE_SIZE: Final = 2048
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")
ID_MAX: Final = 0xFFFF_FFFE  # (uid_t)-1 means "no user"


class RootImage(NamedTuple):
    """--root IMAGE. writable: what is written is kept in it."""

    path: str
    writable: bool


class Size(ParamTypeBase):
    """A number of bytes: 512M, 1.5G, 536870912. Suffixes are powers of 1024."""

    name = "size"
    least, most = MIN_MEMORY, MAX_MEMORY

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", value.strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a size (examples: 512M, 2G)", param, ctx)
        nbytes = int(float(match[1]) * (1 << 10 * " kmgt".index(match[2] or " ")))
        if not self.least <= nbytes <= self.most:
            self.fail(f"{value!r}: between {_short(self.least)} and {_short(self.most)}, please", param, ctx)
        return nbytes & ~0xFFF


class ImageSize(Size):
    """Of a disk or an image."""

    least, most = MIN_IMAGE, MAX_IMAGE


def _short(nbytes: int) -> str:
    unit = (nbytes.bit_length() - 1) // 10
    return f"{nbytes >> 10 * unit}{' KMGT'[unit].strip()}"


class ShareSpec(ParamTypeBase):
    """HOST:GUEST[:rw|:ro] -> (host directory, guest path, writable)."""

    name = "host:guest[:rw]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str, bool]:
        if isinstance(value, tuple):
            return value
        head, colon, mode = value.rpartition(":")
        writable = mode == "rw"
        # Only "rw" and "ro" are modes; a guest path is absolute, so nothing else can be meant.
        if not (colon and mode in ("rw", "ro") and ":" in head):
            head = value
        host, colon, guest = head.rpartition(":")
        if not colon or not host:
            self.fail(f"{value!r}: write HOST:GUEST or HOST:GUEST:rw", param, ctx)
        if not guest.startswith("/"):
            self.fail(f"{value!r}: the guest path {guest!r} must start with /", param, ctx)
        host = os.path.expanduser(host)
        if not os.path.exists(host):
            self.fail(f"{value!r}: no such file or directory on the host: {host}", param, ctx)
        if not os.path.isdir(host):
            self.fail(f"{value!r}: {host} is not a directory", param, ctx)
        if not os.access(host, os.R_OK | os.X_OK):
            self.fail(f"{value!r}: {host} is not readable", param, ctx)
        return os.path.realpath(host), os.path.normpath(guest), writable


class Root(ParamTypeBase):
    """A host directory, a tar archive, or a disk image. ":rw" behind an image: what is written is kept in it."""

    name = "dir|tar|image"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | RootImage:
        if isinstance(value, RootImage):
            return value
        text = str(value)
        keep = text.endswith(":rw") and not os.path.exists(text)
        path = os.path.expanduser(text.removesuffix(":rw") if keep else text)
        if os.path.isdir(path):
            if keep:
                self.fail(f"{value}: a directory is not written to (:rw is for disk images)", param, ctx)
            return os.path.realpath(path)
        try:
            with open(path, "rb") as file:
                head = file.read(2048)
        except OSError as e:
            self.fail(f"{value}: {e.strerror}", param, ctx)
        if head[1080:1082] == b"\x53\xef" or head[510:512] == b"\x55\xaa":
            if keep and not os.access(path, os.W_OK):
                self.fail(f"{value}: the image cannot be written", param, ctx)
            return RootImage(os.path.realpath(path), keep)
        packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
        if keep or not (packed or head[257:262] == b"ustar"):
            self.fail(f"{value} is neither a directory nor a tar archive nor a disk image", param, ctx)
        return os.path.realpath(path)


class DiskSpec(ParamTypeBase):
    """FILE or :SIZE[,model=ideal|ssd|nvme|hdd][,size=SIZE][,ro][,cow] -> arguments of machine.disk.Disk.

    FILE keeps what is written, and is made if there is none and `size` is given; `cow` keeps it in memory; :SIZE is an
    empty disk in memory. An empty file becomes a disk of 1G, or `size`.
    """

    name = "file[,model=...]"
    models = ("ideal", "ssd", "nvme", "hdd")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        file, *words = value.split(",")
        path = os.path.abspath(os.path.expanduser(file))
        disk: dict[str, Any] = {"path": path}
        if file.startswith(":"):
            disk = {"size": ImageSize().convert(file[1:], param, ctx)}
        for word in words:
            key, _, text = word.partition("=")
            if key == "model" and text in self.models:
                disk["model"] = text
            elif key == "size" and "path" in disk:
                disk["size"] = ImageSize().convert(text, param, ctx)
            elif word == "ro":
                disk["read_only"] = True
            elif word == "cow" and "path" in disk:
                disk["base"] = disk.pop("path")
            else:
                self.fail(f"{word!r}: write model={'|'.join(self.models)}, size=SIZE, ro or cow", param, ctx)
        if not file.startswith(":"):
            self._check_file(file, path, disk, param, ctx)
        return disk

    def _check_file(self, file: str, path: str, disk: dict[str, Any], param: click.Parameter | None,
                    ctx: click.Context | None) -> None:
        kept = "path" in disk and "read_only" not in disk
        if not os.path.lexists(path):
            if not kept:
                self.fail(f"{file}: no such file on the host", param, ctx)
            if "size" not in disk:                # a mistyped name shall not become a disk
                self.fail(f"{file}: no such file on the host ({file},size=1G makes it)", param, ctx)
            if not os.access(os.path.dirname(path), os.W_OK):
                self.fail(f"{file}: cannot be made there", param, ctx)
        elif not os.path.isfile(path):
            self.fail(f"{file} is not a regular file", param, ctx)
        elif not os.access(path, os.R_OK | os.W_OK if kept else os.R_OK):
            self.fail(f"{file} cannot be {'written' if kept else 'read'} (add ,ro or ,cow?)", param, ctx)
        elif os.path.getsize(path) == 0 and kept:
            disk.setdefault("size", NEW_DISK)
        elif "size" in disk:
            self.fail(f"{file} has a size: size= is for a new file", param, ctx)
        elif os.path.getsize(path) < 512:
            self.fail(f"{file} is no disk: it has {os.path.getsize(path)} bytes", param, ctx)


class EnvSpec(ParamTypeBase):
    """K=V, or K alone: the host's value (nothing, when the host has none)."""

    name = "k[=v]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key or "\0" in value:
            self.fail(f"{value!r}: write NAME=VALUE or NAME", param, ctx)
        return key, text if equals else os.environ.get(key)


class UserSpec(ParamTypeBase):
    """UID, UID:GID or a name of the guest's /etc/passwd -> (uid or name, gid or None)."""

    name = "uid[:gid]|name"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | str, int | None]:
        if isinstance(value, tuple):
            return value
        user, colon, group = value.partition(":")
        if user.isascii() and user.isdigit() and (not colon or (group.isascii() and group.isdigit())):
            ids = int(user), int(group) if colon else None
            if max(ids[0], ids[1] or 0) > ID_MAX:
                self.fail(f"{value!r}: ids end at {ID_MAX}", param, ctx)
            return ids
        if colon or not NAME.fullmatch(user):
            self.fail(f"{value!r}: write UID, UID:GID or a user name", param, ctx)
        return user, None


class CommandLine(ParamTypeBase):
    """Words for the kernel, as a boot loader hands them over."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).isprintable():
            self.fail(f"{value!r}: one line of text, please", param, ctx)
        if len(os.fsencode(value)) >= COMMAND_LINE_SIZE:
            self.fail(f"longer than {COMMAND_LINE_SIZE - 1} bytes", param, ctx)
        return str(value)


class Duration(ParamTypeBase):
    """A length of virtual time: 8us, 1.5ms, 300 (nanoseconds) -> ns."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|ms|s)?", value.strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a length of time (examples: 8us, 1.5ms)", param, ctx)
        return int(float(match[1]) * {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}[match[2] or "ns"])


class Patterns(ParamTypeBase):
    """Function patterns, separated by commas: vfs_*,do_sys_open."""

    name = "pattern[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        patterns = tuple(part.strip() for part in value.split(","))
        if not all(patterns):
            self.fail(f"{value!r}: an empty pattern matches nothing", param, ctx)
        return patterns


class GuestPath(ParamTypeBase):
    """An absolute path inside the guest."""

    name = "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("/") or "\0" in value:
            self.fail(f"{value!r}: a path inside the guest starts with /", param, ctx)
        return str(value)


def _stack(*options: Callable[[C], C]) -> Callable[[C], C]:
    def apply(command: C) -> C:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def machine_options(pace: str) -> Callable[[C], C]:
    """What the machine is made of. pace: the default of --pace."""
    return _stack(
        click.option(
            "--root",
            type=Root(),
            metavar="DIR|TAR|IMAGE[:rw]",
            help="The guest's / (default: the host's system directories). Changes stay in memory, unless :rw.",
        ),
        click.option(
            "--cpus",
            type=click.IntRange(1, MAX_CPUS),
            default=4,
            show_default=True,
            metavar="N",
            help="Virtual CPUs.",
        ),
        click.option("--memory", type=Size(), default="512M", show_default=True, metavar="SIZE", help="RAM."),
        click.option(
            "--numa",
            type=click.IntRange(1, MAX_NODES),
            default=1,
            show_default=True,
            metavar="N",
            help="Nodes that RAM and CPUs are spread over.",
        ),
        click.option(
            "--share",
            "shares",
            type=ShareSpec(),
            multiple=True,
            metavar="HOST:GUEST[:rw]",
            help="Show a host directory to the guest. Repeatable.",
        ),
        click.option(
            "--disk",
            "disks",
            type=DiskSpec(),
            multiple=True,
            metavar="FILE[,model=M][,size=N][,ro|,cow]",
            help="A disk: /dev/sda, sdb, ...; the first takes the place of the one on /root. Repeatable.",
        ),
        click.option(
            "--no-disk", is_flag=True, help="No disk on /root: neither a fresh one, nor the first --disk."
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, (1 << 64) - 1),
            default=0,
            show_default=True,
            metavar="N",
            help="Seed of everything random.",
        ),
        click.option(
            "--pace",
            type=click.Choice(["virtual", "realtime"]),
            default=pace,
            show_default=True,
            help="virtual skips idle time; realtime keeps step with the host's clock.",
        ),
        click.option(
            "--append",
            type=CommandLine(),
            default="",
            metavar="TEXT",
            help="Kernel command line: preempt=full, noautogroup, ...; shown in /proc/cmdline.",
        ),
        click.option(
            "--panic-on-oops", is_flag=True, help="Stop at the first kernel bug instead of killing one task."
        ),
    )


process_options = _stack(
    click.option(
        "--env",
        type=EnvSpec(),
        multiple=True,
        metavar="K[=V]",
        help="Set an environment variable, or pass the host's on. Repeatable.",
    ),
    click.option("--cwd", type=GuestPath(), metavar="DIR", help="Directory to start in."),
    click.option("--user", type=UserSpec(), metavar="UID[:GID]|NAME", help="Who to be (default: root)."),
)

log_options = _stack(
    click.option("--strace", is_flag=True, help="Show system calls in strace's format, on stderr."),
    click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Write the --strace log to FILE.",
    ),
    click.option(
        "--report", is_flag=True, help="At the end: time, system calls, faults, switches, on stderr."
    ),
)

trace_options = _stack(
    click.option("--depth", type=click.IntRange(0), default=0, metavar="N", help="Only N calls deep."),
    click.option(
        "--min", "min_ns", type=Duration(), default=0, metavar="TIME", help="Only calls that last as long, e.g. 8us."
    ),
    click.option(
        "--only", type=Patterns(), multiple=True, metavar="PATTERN", help="Only functions that match. Repeatable."
    ),
    click.option("--not", "never", type=Patterns(), multiple=True, metavar="PATTERN", help="No function that matches."),
    click.option(
        "--events", type=Patterns(), multiple=True, metavar="NAME", help="Trace events: sched, block:block_rq_*."
    ),
    click.option(
        "--stack", "stacks", type=Patterns(), multiple=True, metavar="EVENT", help="An event with its call stack."
    ),
    click.option(
        "--args", "arguments", is_flag=True, help="Show what kernel functions were called with, and answered."
    ),
    click.option("--kernel/--no-kernel", default=True, help="Functions of the kernel."),
    click.option(
        "--functions/--no-functions", "user_functions", default=True, help="Functions of programs and libraries."
    ),
    click.option(
        "-o", "--output", type=click.Path(), metavar="FILE", help="Save instead; the ending says how."
    ),
)

mkfs_options = _stack(
    click.option("--size", type=ImageSize(), metavar="SIZE",
                 help="How large to make it (default: as it is, or as needed)."),
    click.option("-t", "--type", "kind", type=click.Choice(["ext4", "ext3", "ext2"]), default="ext4",
                 show_default=True),
    click.option("-L", "--label", default="", metavar="NAME", help="Its name, up to 16 bytes."),
    click.option("-U", "--uuid", metavar="UUID", help="Its UUID (default: one of its own)."),
    click.option("-b", "--block-size", type=click.Choice(["1024", "2048", "4096"]), help="Bytes of a block."),
    click.option("-I", "--inode-size", type=int, metavar="BYTES", help="Bytes of an inode (256)."),
    click.option("-i", "--inode-ratio", type=click.IntRange(1024, 64 << 20), metavar="BYTES",
                 help="One inode for so many."),
    click.option("-N", "--inodes", type=click.IntRange(1), metavar="COUNT", help="How many inodes."),
    click.option("-J", "--journal", "journal_mb", type=click.IntRange(1), metavar="MB", help="Size of the journal."),
    click.option("-m", "--reserved", type=click.FloatRange(0, 50), default=5, show_default=True, metavar="PERCENT",
                 help="Blocks that only root may use."),
    click.option("-O", "--features", default="", metavar="LIST", help="Features to add, or, with ^, to leave out."),
)
