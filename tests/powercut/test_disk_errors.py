"""One command of the disk fails: whoever asks is told, and what was promised before can be saved."""
import pytest

from tests.powercut import harness


@pytest.mark.patience(180)
@pytest.mark.parametrize("kind", ["ext4", "ext3"])
def test_a_command_that_fails_is_told_and_costs_no_promise(tmp_path, kind):
    harness.build(tmp_path)
    told = 0
    for number in range(12, 76, 13):
        wrong, said = harness.with_an_error(tmp_path, kind, 1, 15, number)
        assert not wrong, (number, wrong)
        told += "Input/output error" in said or "Read-only file system" in said
    assert told >= 2
