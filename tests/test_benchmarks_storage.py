"""The harness of benchmarks/storage.py: every way of the program works inside, and growth is judged."""
import subprocess

import pytest
from click.testing import CliRunner

from benchmarks import storage
from benchmarks.suite import SOURCES
from benchmarks.table import Report, Row, print_markdown
from glasskernel import Kernel, Share


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("programs") / "storage"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", path, SOURCES / "storage.c"], check=True)
    return path


WAYS = ["append", "seqread", "cold", "read 4096", "write 4096", "dread", "dwrite", "fsync", "grow", "create", "files"]


@pytest.mark.patience(120)
def test_every_way_works_on_ext4(program):
    kernel = Kernel(cmdline="oops=panic", shares=[Share(str(program.parent), "/mnt")])
    for way in WAYS:
        mode, *size = way.split()
        result = kernel.run(["/mnt/storage", mode, "/root", *size, "3"])
        assert (result.status, result.stdout, result.stderr) == (0, b"done\n", b""), way
    kernel.close()


def test_every_row_asks_for_a_way_the_program_has():
    assert {benchmark.argv[1] for benchmark in storage.SUITE} <= {way.split()[0] for way in WAYS}


def test_eleven_times_the_time_is_too_much(monkeypatch, tmp_path):
    """A fake program: 1 ms for each operation, 2 ms from the thousandth on."""
    def fake(command):
        n = int(command[-1])
        return 0.2 + 0.001 * n + 0.001 * max(0, n - 1000), b"done\n"

    monkeypatch.setattr("benchmarks.storage.run_once", fake)
    peer = storage.Peer("glasskernel", (), "/mnt", "/root")
    ways = dict(storage.growth(storage.Place(tmp_path, tmp_path, {}), peer, storage.QUICK))
    once, ten = ways["1,000 files, 10,000: created"]()
    assert (once, ten) == (pytest.approx(1.0), pytest.approx(19.0))
    assert ten > 11 * once


def test_its_introduction_is_its_own(capsys):
    print_markdown(Report("host", ["native"], [Row("r", {"native": 1e-6})], [], []), storage.INTRODUCTION)
    assert "# Speed of storage" in capsys.readouterr().out


def test_it_says_what_it_can_do():
    assert "--quick" in CliRunner().invoke(storage.main, ["--help"]).output
