"""acct(2), acct(5): a record of each process that ends."""
from __future__ import annotations

import struct

import pytest

from glasskernel.kernel.acct import encode_comp_t
from tests.conftest import need

RECORD = struct.Struct("<BBHIIIIIIfHHHHHHHH16s")


def records(kernel, path="/tmp/pacct"):
    data = kernel.run(["cat", path]).stdout
    return [dict(zip(("flag", "version", "tty", "exitcode", "uid", "gid", "pid", "ppid", "btime", "etime", "utime", "stime", "mem",
                      "io", "rw", "minflt", "majflt", "swaps", "comm"), RECORD.unpack_from(data, at), strict=True))
            for at in range(0, len(data), 64)]


SWITCH = "import ctypes, sys; sys.exit(ctypes.CDLL(None, use_errno=True).acct(%s) and ctypes.get_errno())"


def acct(kernel, argument, **options):
    return kernel.run(["python3", "-c", SWITCH.replace("ctypes.get_errno", "__import__('ctypes').get_errno") % argument], **options).status


def test_each_process_leaves_a_record(boot):
    kernel = boot()
    kernel.run(["sh", "-c", "> /tmp/pacct"])
    assert acct(kernel, "b'/tmp/pacct'") == 0
    kernel.run(["bash", "-c", "(exit 3); sleep 2; true & wait"], uid=0)
    kernel.run(["sh", "-c", "kill -SEGV $$"], uid=1000, gid=1000, cwd="/")
    assert acct(kernel, "None") == 0
    kernel.run(["true"])
    python, subshell, sleep, true, bash, sh = records(kernel)[:6]
    assert {r["version"] for r in (python, subshell, sleep, true, bash, sh)} == {3}
    assert subshell["flag"] & 1 and subshell["exitcode"] == 3 << 8 and subshell["ppid"] == bash["pid"]      # forked, no exec
    assert sleep["comm"].rstrip(b"\0") == b"sleep" and 200 <= sleep["etime"] <= 203 and not sleep["flag"] & 1
    assert sleep["mem"] > 100 and sleep["minflt"] > 10 and sleep["btime"] >= 1_568_577_600
    assert sh["uid"] == sh["gid"] == 1000 and sh["flag"] & 0x10 and sh["exitcode"] & 0x7F == 11


def test_lastcomm_and_sa_read_it(boot):
    need("lastcomm", "acct")
    kernel = boot()
    out = kernel.run(["bash", "-c", "> /tmp/pacct; accton /tmp/pacct; ls / >/dev/null; ls / >/dev/null; accton off; lastcomm -f /tmp/pacct; sa -m /tmp/pacct"]).stdout.decode()
    assert out.count("\nls ") == 2 and "root  " in out


def test_errors_of_acct(boot):
    kernel = boot()
    assert acct(kernel, "b'/tmp'") == 21                     # EISDIR: it is opened for writing
    assert acct(kernel, "b'/dev/null'") == 13                # EACCES: not a regular file
    assert acct(kernel, "b'/nosuch'") == 2
    assert acct(kernel, "None", uid=1000, cwd="/") == 1


def test_it_pauses_while_the_file_system_is_full(boot):
    kernel = boot()
    kernel.run(["bash", "-c", "mkdir /tmp/s; mount -t tmpfs -o size=1m t /tmp/s; > /tmp/s/pacct"])
    assert acct(kernel, "b'/tmp/s/pacct'") == 0
    kernel.run(["sh", "-c", "dd if=/dev/zero of=/tmp/s/fill bs=4k count=254 2>/dev/null; sleep 31; true"])
    paused = len(records(kernel, "/tmp/s/pacct"))
    kernel.run(["sh", "-c", "true; true; rm /tmp/s/fill; sleep 31"])
    kernel.run(["true"])
    assert "Process accounting paused" in kernel.dmesg() and "Process accounting resumed" in kernel.dmesg()
    assert len(records(kernel, "/tmp/s/pacct")) > paused
    assert acct(kernel, "None") == 0


@pytest.mark.parametrize("value, encoded", [(0, 0), (8191, 8191), (8192, 0x2000 | 1024), (1_000_000, None), (1 << 30, None)])
def test_numbers_in_16_bits(value, encoded):
    word = encode_comp_t(value)
    assert abs((word & 0x1FFF) * 8 ** (word >> 13) - value) <= value >> 10
    if encoded is not None:
        assert word == encoded
