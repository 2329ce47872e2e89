"""ioctl(2) of ext4: FIEMAP, FITRIM, EXT4_IOC_SHUTDOWN; and files that the kernel itself has open."""
import pytest

from tests.conftest import PROGRAMS
from tests.ext4.conftest import fsck


@pytest.fixture
def program(build_c):
    return f"/programs/{build_c(PROGRAMS / 'ext4_ioctl.c').name}"


@pytest.mark.parametrize("what", ["fiemap", "trim"])
def test_as_on_linux(ext4, program, what):
    """Each check holds on Linux, too. (Only root may mount there, so the comparison is not made here.)"""
    fs = ext4("-t ext4 -b 4096", size="32M")
    result = fs.kernel.run([program, "/mnt", what], cwd="/")
    assert result.status == 0, result.stdout.decode()
    fs.done()


@pytest.mark.parametrize(("flag", "content", "names"), [
    ("0", "lost??", "file lost+found other"),      # EXT4_GOING_FLAGS_DEFAULT: everything is stored first
    ("1", "synced", "file lost+found other"),      # LOGFLUSH: the journal is
    ("2", "synced", "file lost+found"),            # NOLOGFLUSH: as if the power had gone
])
def test_shutdown(ext4, program, flag, content, names):
    """EIO from then on; umount works; what is there afterwards is what Linux leaves."""
    fs = ext4("-t ext4 -b 4096", size="32M")
    result = fs.kernel.run([program, "/mnt", "shutdown", flag], cwd="/")
    assert result.status == 0, result.stdout.decode()
    fs.umount()
    fs.mount()
    assert fs.sh("cat /mnt/file") == content and fs.sh("ls /mnt").split() == names.split()
    fs.done()


def test_accounting_does_not_keep_a_file_system_busy(ext4):
    """acct(2): umount ends it."""
    fs = ext4()
    acct = "import ctypes, sys; sys.exit(ctypes.CDLL(None).acct(b'/mnt/pacct'))"
    assert fs.kernel.run(["/usr/bin/python3", "-c", f"open('/mnt/pacct', 'w'); {acct}"]).status == 0
    fs.sh("true")
    assert fs.kernel.acct is not None and int(fs.sh("stat -c %s /mnt/pacct")) > 0
    fs.umount()
    assert fs.kernel.acct is None
    fs.sh("true")
    assert fsck(fs.path) == ""


def test_proc_has_directories_of_ext4_and_jbd2_before_anything_is_mounted(boot):
    assert boot().run(["/bin/ls", "/proc/fs/ext4", "/proc/fs/jbd2"]).status == 0
