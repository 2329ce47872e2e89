"""A power cut, at any moment: what fsync() promised is there, and e2fsck is content. (The whole: make conformance.)"""
import pytest

from glasskernel.machine.disk import FLUSH, WRITE
from glasskernel.tools.powercut import CAME, ENDED, Moment, WriteLog, Written, choosers
from tests.powercut import harness

SECTOR = 512


def write(sector, byte, fua=False, sectors=1):
    return Written(WRITE, sector, byte * SECTOR * sectors, fua)


def came(command):
    return Moment(CAME, command)


def ended(command):
    return Moment(ENDED, command)


def log_of(*moments):
    log = WriteLog(b"." * SECTOR * 16, atom=SECTOR)
    log.moments += moments
    return log


def sectors(image):
    return bytes(image[::SECTOR])


def keeping(*answers):
    return iter(answers).__next__


def test_a_write_that_was_not_flushed_may_be_there_or_not():
    a = write(1, b"a")
    log = log_of(came(a), ended(a))
    assert sectors(log.image_at(2, lambda: False))[:3] == b"..."
    assert sectors(log.image_at(2, lambda: True))[:3] == b".a."


def test_a_flush_makes_safe_what_had_ended_when_it_came():
    a, b, flush = write(1, b"a"), write(2, b"b"), Written(FLUSH, 0, b"", False)
    log = log_of(came(a), came(b), ended(a), came(flush), ended(b), ended(flush))
    assert sectors(log.image_at(6, lambda: False))[:4] == b".a.."
    assert sectors(log.image_at(5, lambda: False))[:4] == b"...."          # the flush had not ended


def test_fua_is_safe_at_once_and_alone():
    a, b = write(1, b"a"), write(2, b"b", fua=True)
    log = log_of(came(a), ended(a), came(b), ended(b))
    assert sectors(log.image_at(4, lambda: False))[:4] == b"..b."


def test_the_cache_may_keep_a_later_write_and_lose_an_earlier_one():
    a, b = write(1, b"a"), write(1, b"b")
    log = log_of(came(a), ended(a), came(b), ended(b))
    assert {sectors(log.image_at(4, keeping(*answers)))[1:2]
            for answers in ((0, 0), (0, 1), (1, 0), (1, 1))} == {b".", b"a", b"b"}


def test_a_write_that_had_not_ended_may_be_torn_between_atoms():
    a = write(1, b"a", fua=True, sectors=3)
    log = log_of(came(a))
    assert sectors(log.image_at(1, keeping(True, False, True)))[:5] == b".a.a."
    assert log.cuts() == [0, 1]


@pytest.fixture
def directory(tmp_path):
    harness.build(tmp_path)
    return tmp_path


@pytest.mark.patience(180)
@pytest.mark.parametrize(("kind", "seed", "steps", "points"), [
    ("ext4", 3, 40, 18), ("ext4-1k", 5, 40, 12), ("ext4-journal", 2, 40, 8), ("ext3", 3, 30, 8),
    ("ext4-nodelalloc", 4, 30, 6), ("ext4-async-commit", 6, 30, 6), ("ext4-hdd", 1, 30, 6),
    ("ext4-processes", 1, 15, 8), ("ext4-indirect", 2, 30, 6)])
def test_what_was_promised_is_there_after_a_power_cut(directory, kind, seed, steps, points):
    done, wrong = harness.sweep(directory, kind, seed, steps, points)
    assert done == points
    assert not wrong, "\n".join(wrong)


@pytest.mark.patience(180)
def test_the_log_may_run_around_and_be_cut_there(directory):
    """Long enough for the journal to be checkpointed, and its tail to move."""
    done, wrong = harness.sweep(directory, "ext4-1k", 7, 120, 10)
    assert done == 10
    assert not wrong, "\n".join(wrong)


@pytest.mark.patience(180)
def test_a_power_cut_during_recovery_costs_nothing(directory):
    log = harness.record(directory, "ext4", 8, 20)
    first = len(log.moments)
    image = bytes(log.image_at(first, lambda: False))
    recovery = harness.record_recovery(directory, "ext4", image)
    cuts = harness.some(recovery.cuts(), 8)
    assert len(cuts) > 3                         # it had something to write
    for number, cut in enumerate(cuts):
        name, keep = choosers(number, 1)[number % 3]
        again = recovery.image_at(cut, keep)
        assert not harness.recovers(directory, log, "ext4", first, again), (cut, name)


@pytest.mark.patience(180)
@pytest.mark.parametrize("kind", ["ext4", "ext3"])
def test_our_recovery_and_that_of_e2fsck_leave_the_same_files(directory, kind):
    log = harness.record(directory, kind, 9, 30)
    for number, cut in enumerate(harness.some(log.cuts(), 6)):
        _, keep = choosers(9, 1)[number % 3]
        assert not harness.differs_from_e2fsck(directory, kind, bytes(log.image_at(cut, keep))), cut


@pytest.mark.patience(180)
def test_without_barriers_promises_are_broken(directory):
    """nobarrier does what mount(8) warns of; and this test would not notice anything else either, if it did not see that."""
    _, wrong = harness.sweep(directory, "ext4", 3, 20, 12, dice=2, options="nobarrier")
    assert wrong


@pytest.mark.patience(120)
def test_the_same_run_is_recorded_twice(directory):
    """So the moment and the dice that a failure names can be looked at again."""
    first, second = ([(m.kind, m.text, m.command and (m.command.op, m.command.sector, m.command.data, m.command.fua))
                      for m in harness.record(directory, "ext4", 4, 15).moments] for _ in range(2))
    assert first == second
