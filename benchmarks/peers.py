"""Who is measured: the commands that run one program, natively or under something.

A peer turns a program's argv into a host command. `{dir}` and `{tmp}` in an argument stand for the folder of
the compiled programs and for a tmpfs folder, as the program sees them. An argument `{emulator}` stands for
the emulator itself: what a program executes leaves qemu-user, unless it is told to execute qemu-user again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
QILING = "qiling==1.4.6"
GUEST_DIR = "/mnt"


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    prefix: tuple[str, ...]
    directory: str
    tmp: str
    emulator: tuple[str, ...] = ()

    def command(self, argv: tuple[str, ...]) -> list[str]:
        command = list(self.prefix)
        for argument in argv:
            if argument == "{emulator}":
                command += self.emulator
            else:
                command.append(argument.format(dir=self.directory, tmp=self.tmp))
        return command


def glasskernel_prefix(programs: Path, *options: str) -> tuple[str, ...]:
    """The command as users type it: the script that pip installs, if it did."""
    script = Path(sys.executable).with_name("glasskernel")
    command = (str(script),) if script.exists() else (sys.executable, "-m", "glasskernel")
    return (*command, "run", "--share", f"{programs}:{GUEST_DIR}", *options, "--")


def find_peers(programs: Path, cache: Path, wanted: set[str]) -> tuple[list[Peer], list[str]]:
    """The peers this host can run (native first, Glasskernel last), and a note for each one it cannot."""
    local, tmp = str(programs), "/dev/shm"
    peers = [Peer("native", (), local, tmp)]
    notes = []
    if "qemu-user" in wanted:
        if path := shutil.which("qemu-x86_64"):
            peers.append(Peer("qemu-user", (path,), local, tmp, emulator=(path,)))
        else:
            notes.append("qemu-user: qemu-x86_64 is not installed")
    if "strace" in wanted:
        if path := shutil.which("strace"):
            peers.append(Peer("strace", (path, "-f", "-o", "/dev/null"), local, tmp))
        else:
            notes.append("strace is not installed")
    if "qiling" in wanted:
        try:
            python = qiling_python(cache)
        except (OSError, subprocess.CalledProcessError) as e:
            notes.append(f"qiling: cannot be installed here ({e})")
        else:
            peers.append(Peer("qiling", (str(python), str(HERE / "qiling_run.py")), local, tmp))
    peers.append(Peer("glasskernel", glasskernel_prefix(programs), GUEST_DIR, "/tmp"))
    return peers, notes


def qiling_python(cache: Path) -> Path:
    """Qiling's own environment (its dependencies are older than ours), made on first use."""
    folder = cache / "qiling"
    python = folder / "bin" / "python"
    stamp = folder / f".{QILING}"
    if not stamp.exists():
        print(f"installing {QILING} into {folder} (once)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", QILING], check=True)
        stamp.touch()
    return python
