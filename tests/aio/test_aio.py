"""Asynchronous I/O: io_setup(2), io_submit(2) and their relatives."""

import pytest

from tests.conftest import PROGRAMS


@pytest.mark.parametrize("how", ["buffered", "direct"])
def test_aio_as_on_linux(build_c, host, ext4, how):
    """Each check holds on the host's Linux and on ext4 inside: the calls, their errors, the ring, poll, eventfd."""
    program = build_c(PROGRAMS / "aio.c")
    expected = host([str(program), "file", how])
    assert expected.status == 0, expected.stdout
    fs = ext4()
    result = fs.kernel.run([f"/programs/{program.name}", "/mnt/file", how], cwd="/")
    assert result.stdout.decode() == expected.stdout.decode() and result.status == 0, result.stderr
    assert fs.sh("cat /proc/sys/fs/aio-nr /proc/sys/fs/aio-max-nr") == "0\n65536\n"
    fs.done()


def test_what_is_under_way_when_io_submit_returns_ends_by_itself(build_c, ext4):
    """O_DIRECT: unwritten extents are converted, a truncation waits, a closed file's requests end, devices work."""
    program = build_c(PROGRAMS / "aio_direct.c")
    fs = ext4()
    result = fs.kernel.run([f"/programs/{program.name}", "/mnt/file"], cwd="/")
    assert result.status == 0, (result.stdout, result.stderr)
    assert fs.sh("od -An -c /mnt/file | head -1; stat -c %s /mnt/file /mnt/file.cut").split() == (
        ["x"] * 16 + ["262144", "4096"])
    fs.done()
