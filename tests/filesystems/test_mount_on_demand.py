"""The default disk is mounted from the start, but only read when somebody looks into /root."""
import sys

import pytest

DISK = "/dev/sda2 /root ext4 rw,relatime 0 0\n"


@pytest.fixture
def machine(boot):
    """machine(script) -> (output, was the disk read meanwhile?) on a fresh default machine."""

    def go(script, uid=0, cwd="/root", status=0):
        kernel = boot(home=True)
        assert kernel.vfs.on_demand is not None
        result = kernel.run(["/bin/busybox", "sh", "-c", script], uid=uid, cwd=cwd)
        assert result.status == status, result
        return result.stdout.decode(), kernel.vfs.on_demand is None

    return go


def test_a_program_that_does_not_look_pays_nothing(machine):
    assert machine("busybox pwd; busybox cat /proc/mounts | busybox grep root; readlink /proc/self/cwd") == (
        "/root\n" + DISK + "/root\n", False)


def test_nothing_of_ext4_is_imported_before(tmp_path):
    import subprocess

    code = ("import sys; from glasskernel import Kernel; k = Kernel(); k.run(['/bin/busybox', 'true']); "
            "print('glasskernel.fs.ext4.super' in sys.modules, k.params.disks[0].commands)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("False "), done.stderr


@pytest.mark.parametrize("script", [
    "ls -A", "echo > f", "cd ..; ls -A root", "ls -A /root", "stat -c %a /root", "df /root", "ls -A /proc/self/cwd", "cd .",
    "mkdir d", "ln -s x y", "mount --bind /root /mnt; ls -A /mnt", "mount --rbind / /mnt; ls -A /mnt/root",
    "unshare -m ls -A /root", "umount /root", "mount /dev/sda2 /mnt; ls -A /mnt"])
def test_whoever_looks_finds_the_disk(machine, script):
    out, read = machine(f"({script}) 2>/dev/null; grep sda2 /proc/mounts; dmesg | grep -c 'EXT4-fs (sda2): mounted'")
    assert read and out.endswith("1\n")
    assert DISK in out


def test_it_can_be_unmounted(machine):
    assert machine("umount /root; grep -c /root /proc/mounts; ls -d /sys/fs/ext4/sda2; ls -A /root", cwd="/", status=0) == (
        "0\n", True)


def test_working_directories_of_all_tasks_follow(machine):
    out, read = machine("(sleep 1; pwd; cat f; cd ..; pwd) & (sleep 2; ls -A) & busybox sleep 0.1; echo text > f; wait; ls -A")
    assert read and out == "/root\ntext\n/\nf\nf\n"


def test_two_who_look_at_once_wait_for_one_mount(machine):
    out, read = machine("for i in 1 2 3 4 5 6; do (echo $i > f$i) & done; wait; ls | wc -l; dmesg | grep -c 'EXT4-fs (sda2): mounted'")
    assert read and out.split() == ["6", "1"]


def test_somebody_else_is_refused_and_mounts_nothing_wrong(machine):
    out, read = machine("ls /root; id -u; grep sda2 /proc/mounts", uid=1000, cwd="/")
    assert out == "1000\n" + DISK and read


def test_sync_and_unmounting_at_the_end_touch_nothing(boot, tmp_path):
    from glasskernel.machine.disk import Disk
    from tests.ext4.conftest import fsck

    path = tmp_path / "d.img"
    kernel = boot(home=True, disks=[Disk(str(path), 32 << 20)])
    assert kernel.run(["/bin/busybox", "sync"]).status == 0
    kernel.shutdown()
    assert kernel.vfs.on_demand is not None and fsck(path) == ""


def test_a_disk_that_fails_is_an_error_of_who_looks(boot):
    from glasskernel.machine.disk import Disk, DiskFaults

    kernel = boot(home=True, disks=[Disk(size=64 << 20, faults=DiskFaults(bad_sectors=[(4098, 100000)]))])
    result = kernel.run(["/bin/busybox", "sh", "-c", "ls; echo status $?; cd /; echo here"])
    assert result.stdout.endswith(b"here\n") and b"status 1" in result.stdout
