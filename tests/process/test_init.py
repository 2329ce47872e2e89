"""PID 1: what it is made of, and that nobody else can play its part."""
import pathlib
import subprocess

from glasskernel.init.user_init import _CODE
from tests.conftest import need


def test_the_code_is_what_the_assembler_makes_of_the_listing(tmp_path):
    need("as", "binutils")
    source = pathlib.Path(__file__).with_name("init.s")
    subprocess.run(["as", source, "-o", tmp_path / "init.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "init.o", tmp_path / "code"], check=True)
    assert (tmp_path / "code").read_bytes() == _CODE


def test_only_pid_1_may_use_its_device(run_c):
    result = run_c(r"""
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/ioctl.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) {
            int fd = open("/dev/init", O_RDWR);
            for (int command = 0x4900; command <= 0x4903; command++)
                printf("%d ", ioctl(fd, command, 0) == -1 ? errno : 0);
            if (fork() == 0)
                _exit(ioctl(fd, 0x4901, 0) == -1 && errno == EPERM);
            int status;
            wait(&status);
            printf("%d", WEXITSTATUS(status));
        }""")
    assert result.stdout == b"1 1 1 1 1"


def test_signals_do_not_end_it(run):
    result = run("kill -9 1; kill -TERM 1; sleep 0.01; cat /proc/1/comm /proc/1/cmdline")
    assert result.stdout == b"init\n/init\0"
