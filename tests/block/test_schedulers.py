"""What each scheduler is for: the table of benchmarks/io_schedulers.py, in virtual time."""
import pytest

from benchmarks.io_schedulers import (
    random_reads_together,
    reads_beside_writes,
    shares_by_priority,
    start_of_a_program,
    streams_beside_each_other,
)


@pytest.mark.parametrize("scheduler", [b"mq-deadline", b"bfq"])
def test_sorted_requests_need_shorter_ways(scheduler):
    assert random_reads_together(scheduler) > 1.3 * random_reads_together(b"none")


@pytest.mark.parametrize("scheduler", [b"mq-deadline", b"kyber", b"bfq"])
def test_reads_do_not_wait_behind_writes(scheduler):
    assert reads_beside_writes(scheduler) < 0.5 * reads_beside_writes(b"none")


def test_bfq_serves_one_stream_at_a_time():
    assert streams_beside_each_other(b"bfq") > 5 * streams_beside_each_other(b"none")


def test_bfq_lets_a_program_start_beside_streams():
    assert start_of_a_program(b"bfq") < 0.3 * start_of_a_program(b"none")


def test_bfq_shares_by_io_priority():
    assert shares_by_priority(b"bfq") > 3 and shares_by_priority(b"mq-deadline") < 1.3
