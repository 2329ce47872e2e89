"""`glasskernel run` with its default disk, with the user's disks, and from root images."""
import shutil
import subprocess
import sys

import pytest

from tests.conftest import need
from tests.ext4.conftest import fsck


def run(*argv, cwd=None):
    done = subprocess.run([sys.executable, "-m", "glasskernel", *map(str, argv)], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_the_working_directory_is_a_fresh_ext4_disk():
    status, out, err = run("run", "--", "sh", "-c", "pwd; ls -A; touch a; mv a b; ls; df -T . | tail -1; lsblk -rno NAME,MOUNTPOINT")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["/root", "b"] and lines[2].split()[:2] == ["/dev/sda2", "ext4"] and lines[2].endswith(" /root")
    assert lines[3:] == ["sda ", "sda1 ", "sda2 /root"]


def test_the_rename_of_the_first_lab_is_that_of_ext4():
    _, _, err = run("trace", "--no-functions", "--only", "do_renameat2,vfs_rename,ext4_rename2,ext4_rename", "--",
                    "bash", "-c", "touch a; mv a b")
    names = [line.split("|")[1].strip().split("(")[0] for line in err.splitlines() if "() {" in line or "();" in line]
    assert names == ["do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename"]


def test_no_disk():
    status, out, _ = run("run", "--no-disk", "--", "sh", "-c", "df -T . | tail -1; ls /dev/sda 2>&1")
    assert status == 2 and out.split()[:2] == ["overlay", "overlay"]


def test_a_new_disk_is_formatted_and_keeps_what_was_written(tmp_path):
    path = tmp_path / "work.img"
    status, _, err = run("run", "--disk", f"{path},size=64M,model=ssd", "--", "sh", "-c", "echo kept > f; mkdir d")
    assert (status, err) == (0, "") and fsck(path) == ""
    assert run("run", "--disk", path, "--", "cat", "f")[:2] == (0, "kept\n")
    status, out, _ = run("run", "--disk", f"{path},cow", "--", "sh", "-c", "rm f; ls")
    assert (status, out) == (0, "d\n")
    assert run("run", "--disk", f"{path},ro", "--", "sh", "-c", "cat f; touch g")[:2] == (1, "kept\n")
    assert run("image", "cat", path, "/f")[1] == "kept\n" and fsck(path) == ""


def test_a_program_that_is_killed_has_its_files_stored(tmp_path):
    path = tmp_path / "work.img"
    status, _, _ = run("run", "--disk", f"{path},size=64M", "--", "sh", "-c", "echo x > f; sleep 1000 & kill -9 $$")
    assert status == 137 and fsck(path) == "" and run("image", "cat", path, "/f")[1] == "x\n"


def test_a_second_disk_is_left_alone(tmp_path):
    path = tmp_path / "second.img"
    path.write_bytes(bytes(1 << 20))
    status, out, _ = run("run", "--disk", ":64M,model=hdd", "--disk", path, "--", "sh", "-c", "lsblk -rno NAME,SIZE,MOUNTPOINT")
    assert status == 0 and out.splitlines() == ["sda 64M ", "sda1 1M ", "sda2 62M /root", "sdb 1M "]
    assert path.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("table", ["dos", "gpt"])
def test_a_disk_with_partitions_is_mounted(tmp_path, table):
    need("sfdisk", "fdisk")
    path, part = tmp_path / "d.img", tmp_path / "p.img"
    assert run("mkfs", part, "--size", "32M")[0] == 0
    with open(path, "wb") as file:
        file.truncate(64 << 20)
        file.seek(4 << 20)
        file.write(part.read_bytes())
    subprocess.run(["sfdisk", "-q", path], input=f"label: {table}\n2048,2048\n8192,65536\n", text=True, check=True)
    status, out, err = run("run", "--disk", path, "--", "sh", "-c", "ls; df . | tail -1")
    assert (status, err) == (0, "") and out.startswith("lost+found\n/dev/sda2 ")


@pytest.mark.parametrize(("content", "told"), [
    (b"x" * 4096, "is not empty and has no ext4"), (b"tiny", "is no disk: it has 4 bytes"),
    (bytes(1080) + b"\x53\xef" + b"\xff" * 3000, "cannot be mounted: EXT4-fs (sda)")])
def test_a_disk_that_cannot_be_used_is_told(tmp_path, content, told):
    path = tmp_path / "d.img"
    path.write_bytes(content)
    before = path.read_bytes()
    status, out, err = run("run", "--disk", path, "--", "true")
    assert (status, out) == (2, "") and told in err and err.count("\n") == 1
    assert path.read_bytes() == before


@pytest.fixture
def tree(tmp_path):
    """A root file system with busybox."""
    busybox = need("busybox", "busybox-static")
    root = tmp_path / "tree"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in ("sh", "cat", "ls", "df", "id", "mount"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/root:/bin/sh\n")
    return root


def test_a_root_image_is_the_root_and_stays_as_it_is(tmp_path, tree):
    image = tmp_path / "root.img"
    assert run("image", "build", image, tree)[0] == 0
    before = image.read_bytes()
    status, out, err = run("run", "--root", image, "--", "sh", "-c", "echo x > /new; cat /new; df / | tail -1; ls /dev/sda; pwd")
    assert (status, err) == (0, ""), err
    assert out.split()[0] == "x" and out.split()[1] == "/dev/sda" and out.endswith("/dev/sda\n/root\n")
    assert image.read_bytes() == before
    assert run("run", "--root", image, "--user", "user", "--", "id", "-u")[:2] == (0, "1000\n")
    status, _, err = run("run", "--root", image, "--", "nosuch")
    assert status == 127 and "command not found" in err


def test_a_root_image_may_be_kept(tmp_path, tree):
    image = tmp_path / "root.img"
    assert run("image", "build", image, tree)[0] == 0
    assert run("run", "--root", f"{image}:rw", "--", "sh", "-c", "echo x > /new")[0] == 0
    assert run("image", "cat", image, "/new")[1] == "x\n" and fsck(image) == ""


def test_a_root_image_from_a_tar_and_the_tar_itself_are_the_same(tmp_path, tree):
    subprocess.run(["tar", "-C", tree, "-czf", tmp_path / "root.tgz", "."], check=True)
    assert run("image", "build", tmp_path / "root.img", tmp_path / "root.tgz")[0] == 0
    listings = [run("run", "--root", tmp_path / name, "--", "ls", "/bin", "/etc")[:2] for name in ("root.tgz", "root.img")]
    assert listings[0] == listings[1] and listings[0][0] == 0


def test_python_keeps_a_disk_too(tmp_path):
    from glasskernel import Kernel
    from glasskernel.machine.disk import Disk

    path = tmp_path / "d.img"
    with Kernel(disks=[Disk(str(path), 64 << 20)]) as kernel:
        assert kernel.run(["sh", "-c", "echo x > f; df -T . | tail -1"]).stdout.split()[:2] == [b"/dev/sda", b"ext4"]
    assert fsck(path) == "" and run("image", "cat", path, "/f")[1] == "x\n"
    with pytest.raises(ValueError, match="not empty"):
        path.write_bytes(b"x" * 8192)
        Kernel(disks=[Disk(str(path))])
