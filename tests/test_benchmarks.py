"""The benchmark harness: what it computes and prints, with sleeping left out."""

import pytest

from benchmarks.measure import FULL, CannotRun, complaint, run_once, seconds_per_operation
from benchmarks.peers import Peer
from benchmarks.suite import SUITE, Benchmark
from benchmarks.table import Report, Row, duration, print_markdown, print_table, ratio


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (-1e-9, "0 ns"), (165e-9, "165 ns"), (0.9996e-6, "1.00 µs"), (12.34e-6, "12.3 µs"),
        (1.234e-6, "1.23 µs"), (123.4e-6, "123 µs"), (999.9e-6, "1.00 ms"), (75.0, "75.0 s"),
    ],
)  # fmt: skip
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text


def test_ratio_says_how_much_faster_we_are():
    row = Row("x", {"native": 1e-6, "qiling": 40e-6, "glasskernel": 4e-6, "strace": None})
    ratios = [ratio(row, base) for base in ("native", "qiling", "strace", "absent")]
    assert ratios == ["0.25x", "10x", "-", "-"]


def test_cost_is_the_difference_of_two_runs(monkeypatch):
    """A fake peer: 0.2 s to start, 10 ms an operation."""
    asked = []

    def fake(command):
        asked.append(int(command[-1]))
        return 0.2 + 0.01 * int(command[-1]), b"done\n"

    monkeypatch.setattr("benchmarks.measure.run_once", fake)
    peer = Peer("fake", ("emulate",), "/d", "/t")
    cost = seconds_per_operation(peer, Benchmark("b", ("{dir}/b",), 1), FULL, b"done\n")
    assert cost == pytest.approx(0.01)
    assert max(asked) <= 200, "no more operations than the target asks for"


def test_a_program_that_does_nothing_is_not_fast(monkeypatch):
    monkeypatch.setattr("benchmarks.measure.run_once", lambda command: (0.1, b""))
    with pytest.raises(CannotRun, match="did not do its work"):
        seconds_per_operation(Peer("fake", (), "", ""), SUITE[0], FULL, b"done\n")


def test_failures_are_told_in_one_line():
    assert complaint(b"Traceback\n  File x\nOSError: no\n", 1) == "OSError: no"
    assert complaint(b"glasskernel: bad\nmore\n", 1) == "bad"
    assert complaint(b"", 3) == "exit status 3"
    with pytest.raises(CannotRun, match="exit status 3"):
        run_once(["sh", "-c", "exit 3"])


def test_placeholders():
    peer = Peer("q", ("qemu",), "/d", "/t", emulator=("qemu", "-x"))
    assert peer.command(("{dir}/a", "{emulator}", "{tmp}/b")) == ["qemu", "/d/a", "qemu", "-x", "/t/b"]


def test_both_tables_hold_every_row(capsys):
    row = Row("r1", {"native": 1e-6, "glasskernel": None})
    report = Report("host", ["native", "glasskernel"], [row], [], ["n"])
    for show in (print_table, print_markdown):
        show(report)
        out = capsys.readouterr().out
        assert "r1" in out and "1.00 µs" in out and "* n" in out
