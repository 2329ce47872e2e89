"""The leak check of the other tests would notice a leak."""
import pytest

from glasskernel.fs.check_vfs import check_vfs
from glasskernel.fs.namei import kern_path
from glasskernel.fs.open import filp_open
from glasskernel.fs.types import O_CREAT, O_RDWR
from glasskernel.kernel.current import register


@pytest.fixture
def kernel(boot, monkeypatch):
    kernel = boot()
    # PID 1 makes the calls: it has a root directory
    monkeypatch.setattr(register, "task", kernel.pids.child_reaper, raising=False)
    return kernel


def test_a_fresh_kernel_is_sound(kernel):
    assert check_vfs(kernel) == []


def test_a_forgotten_path_is_noticed(kernel):
    path = kern_path(kernel, b"/tmp")
    assert any("mnt_count" in text for text in check_vfs(kernel))
    assert any("d_count" in text for text in check_vfs(kernel))
    path.mnt.mnt_count -= 1
    path.dentry.d_count -= 1


def test_a_forgotten_file_is_noticed(kernel):
    file = filp_open(b"/tmp/forgotten", O_CREAT | O_RDWR, 0o600)
    wrong = check_vfs(kernel)
    assert any("nr_files" in text for text in wrong)
    assert any("writers" in text for text in wrong)
    from glasskernel.fs.file_table import fput
    from glasskernel.kernel.task_work import task_work_run

    fput(file)
    task_work_run()                     # as on the way back to user mode
    assert check_vfs(kernel) == []
