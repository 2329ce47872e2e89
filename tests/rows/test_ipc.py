"""System V IPC as its tools show it."""
import re

from tests.conftest import need


def test_ipcs_ipcmk_and_ipcrm(run):
    need("ipcs", "util-linux")
    out = run("ipcmk -S 3; ipcmk -M 5000; ipcmk -Q; ipcs; cat /proc/sysvipc/shm; ipcrm -a; ipcs -s | tail -n +4").stdout.decode()
    assert out.startswith("Semaphore id: 0\nShared memory id: 0\nMessage queue id: 0\n")
    assert re.search(r"^0x[0-9a-f]{8} 0 +root +644 +5000 +0 ", out, re.MULTILINE)
    assert re.search(r"^ *-?\d+ +0 +644 +5000 ", out, re.MULTILINE) and not out.splitlines()[-1].strip()


def test_limits_are_sysctls(run):
    out = run("cat /proc/sys/kernel/sem; echo 10 > /proc/sys/kernel/msgmax; cat /proc/sys/kernel/msgmax; ipcs -l | grep 'max ops'").stdout
    assert out == b"32000\t1024000000\t500\t32000\n10\nmax ops per semop call = 500\n"
