"""System calls of the VFS: each program of guest/ prints one line a call; Linux printed the expected text.

Recorded as root on tmpfs, Debian 12, Linux 6.18, and changed where 5.3 answers something else:
    open(O_CREAT | O_EXCL) of an existing directory by ".", ".." or "/" is EISDIR (EEXIST since 5.7);
    inotify reports a deletion to the directory before the file's own events (the other way round since 5.17).
"""
import difflib
import pathlib

import pytest

from glasskernel.fs.check_vfs import check_vfs

GUEST = pathlib.Path(__file__).parent / "guest"


def difference(got, name):
    expected = (GUEST / name).read_text().splitlines()
    lines = got.decode(errors="replace").splitlines()
    return list(difflib.unified_diff(expected, lines, "Linux", "Glasskernel", "", "", 0))


@pytest.fixture
def guest(boot):
    """guest(command) runs in an empty directory of tmpfs; the programs are in /guest."""
    from glasskernel import Share

    kernel = boot(shares=[Share(str(GUEST), "/guest")])

    def go(command):
        result = kernel.run(["/bin/sh", "-c", f"mkdir /tmp/here && cd /tmp/here && exec {command}"],
                            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"})
        assert check_vfs(kernel) == []
        return result

    return go


@pytest.mark.parametrize("program", ["vfs_calls", "readiness", "dnotify"])
def test_every_call_answers_as_linux_does(guest, program):
    result = guest(f"/usr/bin/python3 -B /guest/{program}.py")
    assert difference(result.stdout, f"{program}.txt") == [], result.stderr.decode()
    assert result.status == 0, result.stderr.decode()


def test_mounts_bind_move_propagate_and_detach_as_on_linux(guest):
    result = guest("bash /guest/mounts.sh /tmp/top 2>&1")
    assert difference(result.stdout, "mounts.txt") == []
