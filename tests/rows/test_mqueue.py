"""A287: POSIX message queues, mq_overview(7)."""
import pytest

from tests.conftest import PROGRAMS


@pytest.fixture
def mq(run_c):
    def go(what):
        done = run_c(PROGRAMS / "mqueue.c", what, flags=("-lrt",))
        assert (done.status, done.stderr) == (0, b""), done
        return done.stdout.decode()

    return go


def test_messages_come_by_priority_and_age(mq):
    assert mq("order") == "0 8 32 4: high/9/5 mid1/5/5 mid2/5/5 low/1/4\n"


def test_errors(mq):
    assert mq("errors") == "2 17 13 22 90 11 90 22 11 110 22 9 9 0 2\n"


def test_queues_count_against_rlimit_msgqueue_and_the_sysctls(mq):
    """EMFILE beyond the limit; what goes is given back."""
    assert mq("limits") == "0 24 0 22 22\n"


def test_receivers_and_senders_wait(mq):
    assert mq("waiting") == "late/3/5 one two 110 1 4\n"


def test_one_process_is_notified_once(mq):
    """mq_notify(3): by a signal, when a message comes into an empty queue; the file shows who wants to be."""
    text = mq("notify")
    assert text.startswith("0 16 1 -3 77 1 1 5 QSIZE:2          NOTIFY:0     SIGNO:10    NOTIFY_PID:"), text


def test_a_thread_that_sleeps_keeps_the_queue(mq):
    assert mq("closing") == "still\n"


def test_the_file_system(run):
    """mq_overview(7): mount -t mqueue; queues are files."""
    done = run("grep mqueue /proc/filesystems; ls /dev/mqueue; touch /dev/mqueue/q; ls -l /dev/mqueue | tail -1 | cut -c1-11; cat /dev/mqueue/q;"
               "mkdir /tmp/m; mount -t mqueue none /tmp/m; ls /tmp/m; rm /tmp/m/q; ls /dev/mqueue; cat /proc/sys/fs/mqueue/*; grep ' mqueue ' /proc/mounts")
    assert done.stdout.decode() == (
        "nodev\tmqueue\n-rw-r--r-- \nQSIZE:0          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \nq\n10\n10\n8192\n8192\n256\n"
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0\nnone /tmp/m mqueue rw,relatime 0 0\n"), done
    assert run("echo 1 > /proc/sys/fs/mqueue/queues_max; setpriv --reuid 1000 --clear-groups sh -c 'touch /dev/mqueue/a; touch /dev/mqueue/b'"
               ).stderr.endswith(b"No space left on device\n")
