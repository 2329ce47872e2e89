"""mkfs and image files, without a kernel: the host's e2fsck and debugfs judge what we make and read what we wrote."""
import contextlib
import os
import stat
import subprocess
import sys
import tarfile
import zlib

import pytest

from glasskernel.cli import main as cli_main
from glasskernel.machine.disk import Disk
from glasskernel.tools.image.files import extract, open_image
from glasskernel.tools.image.geometry import FreeBlocks, ImageError, MkfsOptions, plan
from glasskernel.tools.image.home import find_ext4, home_disks
from glasskernel.tools.image.mkfs import mkfs_file
from glasskernel.tools.image.partitions import partitions
from tests.conftest import need
from tests.ext4.conftest import fsck

M = 1 << 20
UUID = bytes(range(16))


@pytest.fixture
def cli(capfd):
    """cli(words) -> (status, stdout, stderr) of one command line."""

    def go(*argv):
        status = cli_main.dispatch([str(word) for word in argv])
        out, err = capfd.readouterr()
        return status, out, err

    return go


def dumped(path):
    """What dumpe2fs -h says, as a dict."""
    text = subprocess.run([need("dumpe2fs", "e2fsprogs"), "-h", str(path)], capture_output=True, text=True).stdout
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize("kind", ["ext4", "ext3", "ext2"])
@pytest.mark.parametrize("size", [100 << 10, 1 * M, 3 * M, 9 * M + 512 * 7, 64 * M, 511 * M, 1 << 30, (1 << 30) + 12288000])
def test_every_size_is_clean(tmp_path, kind, size):
    path = tmp_path / "d.img"
    mkfs_file(str(path), size, MkfsOptions(kind=kind, uuid=UUID, now=1568577600))
    assert path.stat().st_size == size
    assert fsck(path) == ""


@pytest.mark.parametrize("block", [1024, 2048, 4096])
@pytest.mark.parametrize("inode", [128, 256, 1024])
def test_every_block_and_inode_size_is_clean(tmp_path, block, inode):
    for size in (8 * M, 600 * M):
        path = tmp_path / f"{size}.img"
        mkfs_file(str(path), size, MkfsOptions(block_size=block, inode_size=inode, uuid=UUID))
        assert fsck(path) == ""


@pytest.mark.parametrize("word", ["^resize_inode", "^metadata_csum", "^has_journal", "^flex_bg", "^64bit", "^sparse_super",
                                  "^extent,^64bit", "^filetype", "^dir_index", "^metadata_csum,^64bit", "^huge_file"])
def test_features_can_be_left_out(tmp_path, word):
    for size in (16 * M, 1 << 30):
        path = tmp_path / f"{size}.img"
        mkfs_file(str(path), size, MkfsOptions(uuid=UUID, features=tuple(word.split(","))))
        assert fsck(path) == ""
        assert not {name[1:] for name in word.split(",")} & set(dumped(path)["Filesystem features"].split())


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64 * M), ("ext4", 1 << 30), ("ext3", 1 << 30), ("ext2", 300 * M)])
def test_the_choices_are_those_of_debians_mke2fs(tmp_path, kind, size):
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    mkfs_file(str(ours), size, MkfsOptions(kind=kind, uuid=UUID))
    subprocess.run([need("mke2fs", "e2fsprogs"), "-q", "-t", kind, str(theirs), str(size >> 10)], check=True)
    mine, his = dumped(ours), dumped(theirs)
    for key in ("Filesystem features", "Default mount options", "Inode count", "Block count", "Reserved block count",
                "Free blocks", "Free inodes", "Block size", "Reserved GDT blocks", "Blocks per group", "Inodes per group",
                "Inode size", "Journal size", "Total journal blocks", "Group descriptor size", "Maximum mount count"):
        assert sorted(mine.get(key, "").split()) == sorted(his.get(key, "").split()), key


def test_an_image_needs_only_the_space_of_what_is_in_it(tmp_path):
    path = tmp_path / "large.img"
    mkfs_file(str(path), 100 << 30, MkfsOptions(uuid=UUID))
    assert path.stat().st_blocks * 512 < 8 * M
    assert fsck(path) == ""


@pytest.mark.parametrize("options", [
    {"kind": "xfs"}, {"block_size": 512}, {"inode_size": 100}, {"inode_size": 8192}, {"features": ("quota",)},
    {"features": ("^extent",)}, {"journal_mb": 1, "block_size": 4096}, {"inodes": 1 << 33}])
def test_what_cannot_be_made_is_refused_before_a_byte_is_written(tmp_path, options):
    path = tmp_path / "d.img"
    with pytest.raises(ImageError):
        mkfs_file(str(path), 64 * M, MkfsOptions(**options))
    assert not path.exists()


def test_free_blocks_are_taken_once():
    free = FreeBlocks(1, 100)
    free.carve(10, 5)
    assert free.within(0, 50) == [(1, 10), (15, 50)]
    assert free.take(20, 8) == [(8, 2), (15, 18)]
    assert free.run_of(30, 0) == 33
    with pytest.raises(ImageError):
        free.carve(40, 1)
    assert sum(count for _, count in free.take(44, 90)) == 44
    with pytest.raises(ImageError):
        free.take(1, 0)


def test_mkfs_on_the_command_line(cli, tmp_path):
    path = tmp_path / "d.img"
    status, out, _ = cli("mkfs", path, "--size", "64M", "-L", "mine", "-U", "12345678-1234-1234-1234-123456789abc")
    assert status == 0 and "65536 blocks of 1024 bytes" in out
    told = dumped(path)
    assert told["Filesystem volume name"] == "mine"
    assert told["Filesystem UUID"] == "12345678-1234-1234-1234-123456789abc"
    status, _, err = cli("mkfs", path)
    assert status == 1 and "--force" in err and err.count("\n") == 1
    assert dumped(path)["Filesystem volume name"] == "mine"
    assert cli("mkfs", path, "--force", "-t", "ext2")[0] == 0
    assert dumped(path)["Filesystem volume name"] == "<none>" and fsck(path) == ""


@pytest.mark.parametrize(("argv", "told"), [
    (["mkfs", "new.img"], "--size"), (["mkfs", "/nowhere/x.img", "--size", "64M"], "No such file"),
    (["mkfs", "/etc", "--size", "64M"], "not a regular file"), (["mkfs", "d.img", "--size", "1K"], "between 64K and 16T"),
    (["mkfs", "d.img", "--size", "64M", "-L", "x" * 17], "16 bytes"), (["mkfs", "d.img", "-U", "zz", "--size", "1M"], "UUID"),
    (["mkfs", "d.img", "--size", "64M", "-O", "bogus"], "bogus"),
    (["image", "ls", "/etc/passwd"], "no ext2, ext3 or ext4"), (["image", "cat", "/nowhere", "/x"], "No such file"),
    (["image", "build", "d.img", "/etc/passwd"], "not a tar archive")])
def test_mistakes_are_one_line(cli, tmp_path, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(*argv)
    assert status in (1, 2) and out == ""
    assert told in err and err.startswith("glasskernel: ") and err.count("\n") == 1
    assert not (tmp_path / "d.img").exists()


@pytest.fixture
def files(tmp_path):
    """A directory with a file of every kind."""
    source = tmp_path / "source"
    (source / "d" / "many").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"hello\n")
    (source / "d" / "f").chmod(0o4751)
    os.link(source / "d" / "f", source / "hard")
    (source / "short").symlink_to("d/f")
    (source / "long").symlink_to("x" * 200)
    os.mkfifo(source / "fifo")
    with open(source / "sparse", "wb") as file:
        file.seek(5 * M)
        file.write(b"end")
    (source / "pieces").write_bytes((b"x" * 4096 + bytes(4096)) * 900)         # more extents than the inode holds
    (source / "empty").touch()
    for i in range(400):
        (source / "d" / "many" / f"a file with a long name, number {i}").write_text(str(i))
    os.utime(source / "d" / "f", ns=(1, 1_500_000_000_123_456_789))
    (source / "d" / "many").chmod(0o700)
    return source


@pytest.mark.parametrize("options", [[], ["-t", "ext3"], ["-t", "ext2", "-b", "1024"], ["--size", "200M", "-I", "128"]])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tree_goes_in_and_comes_out_again(cli, tmp_path, files, options, packed):
    source = files
    if packed:
        source = tmp_path / "s.tar.gz"
        with tarfile.open(source, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            tar.add(files, arcname=".")
    image = tmp_path / "o.img"
    status, _, err = cli("image", "build", image, source, *options)
    assert (status, err) == (0, "")
    assert fsck(image) == ""
    status, out, _ = cli("image", "ls", image, "/d")
    assert "-rwsr-x--x   2" in out and out.splitlines()[0].endswith(" f")
    assert cli("image", "cat", image, "/short")[1] == "hello\n"
    status, out, _ = cli("image", "extract", image, "/", tmp_path / "out")
    assert status == 0
    for name in ("hard", "sparse", "pieces", "empty", "d/many/a file with a long name, number 399"):
        assert (tmp_path / "out" / name).read_bytes() == (files / name).read_bytes(), name
    assert os.readlink(tmp_path / "out" / "long") == "x" * 200
    found = (tmp_path / "out" / "d" / "f").stat()
    assert found.st_nlink == 2 and stat.S_IMODE(found.st_mode) == 0o4751 and found.st_size == 6
    assert found.st_mtime_ns // 1_000_000_000 == 1_500_000_000
    assert stat.S_IMODE((tmp_path / "out" / "d" / "many").stat().st_mode) == 0o700


def test_devices_owners_and_attributes_are_in_the_image(cli, tmp_path):
    archive = tmp_path / "s.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, numbers in (("null", tarfile.CHRTYPE, (1, 3)), ("far", tarfile.BLKTYPE, (300, 1000))):
            info = tarfile.TarInfo(name)
            info.type, (info.devmajor, info.devminor), info.mode, info.uid, info.gid = kind, numbers, 0o640, 1000, 100000
            tar.addfile(info)
        info = tarfile.TarInfo("f")
        info.pax_headers = {"SCHILY.xattr.user.small": "s", "SCHILY.xattr.user.large": "l" * 600}
        tar.addfile(info)
    image = tmp_path / "o.img"
    assert cli("image", "build", image, archive)[0] == 0
    assert fsck(image) == ""
    told = subprocess.run([need("debugfs", "e2fsprogs"), "-R", "ea_list f", str(image)], capture_output=True, text=True).stdout
    assert "user.small (1)" in told and "user.large (600)" in told
    listing = cli("image", "ls", image)[1].splitlines()
    assert listing[1].startswith("brw-r-----   1  1000 100000  300, 1000")
    assert "1, 3" in listing[-1]


def test_an_archive_cannot_lead_out(cli, tmp_path):
    for name, kind, target in (("../x", tarfile.REGTYPE, ""), ("x", tarfile.LNKTYPE, "/etc/passwd")):
        archive = tmp_path / "bad.tar"
        with tarfile.open(archive, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        status, _, err = cli("image", "build", tmp_path / "o.img", archive)
        assert status == 1 and err.count("\n") == 1
        assert not (tmp_path / "o.img").exists()


def test_an_archive_may_come_through_a_pipe(tmp_path, files):
    command = f"tar -C {files} -cf - d | {sys.executable} -m glasskernel image build {tmp_path}/o.img /dev/stdin"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and fsck(tmp_path / "o.img") == ""


def test_a_tree_that_does_not_fit_leaves_nothing(cli, tmp_path, files):
    status, _, err = cli("image", "build", tmp_path / "o.img", files, "--size", "2M", "-t", "ext2")
    assert status == 1 and "image" in err
    assert not (tmp_path / "o.img").exists()


def test_damaged_images_are_told_and_never_loop(tmp_path, files):
    """Whatever is wrong with an image, reading it ends, with an error or with some files."""
    import random

    image = tmp_path / "o.img"
    assert cli_main.dispatch(["image", "build", str(image), str(files / "d"), "--size", "4M"]) == 0
    good = image.read_bytes()
    dice = random.Random(1)
    for number in range(60):
        bad = bytearray(good)
        for _ in range(dice.choice((1, 20, 400))):
            bad[dice.randrange(1024, 200 << 10)] = dice.randrange(256)
        image.write_bytes(bad)
        out = tmp_path / f"out{number}"
        with contextlib.suppress(ImageError, OSError):
            extract(open_image(str(image)), open_image(str(image)).node(2), str(out))


def test_the_default_disk_is_a_small_partition_and_one_with_ext4(tmp_path):
    [disk], device = home_disks((), 7)
    [again], _ = home_disks((), 7)
    [other], _ = home_disks((), 8)
    assert device.name == "/dev/sda2" and device.fs_type == "ext4"
    parts = partitions(disk.read_bytes, disk.size)
    assert [(number, start // 512) for number, start, _ in parts] == [(1, 2048), (2, 4096)]
    path = tmp_path / "sda2"
    with open(path, "wb") as file:
        file.truncate(parts[1][2])
        for at in range(0, parts[1][2], M):
            data = disk.read_bytes(parts[1][1] + at, min(M, parts[1][2] - at))
            if data.count(0) != len(data):
                os.pwrite(file.fileno(), data, at)
    assert fsck(path) == ""
    first, second, third = ({n: d.read_bytes(n * 4096, 4096) for n in d.image.touched} for d in (disk, again, other))
    assert first == second != third


def test_only_an_empty_disk_is_formatted(tmp_path):
    path = tmp_path / "d.img"
    path.write_bytes(bytes(M) + b"precious" + bytes(M - 8))
    with pytest.raises(ImageError, match="not empty"):
        home_disks([Disk(str(path))], 0)
    assert path.read_bytes()[M : M + 8] == b"precious"
    path.write_bytes(bytes(16 * M))
    with pytest.raises(ImageError, match="read-only"):
        home_disks([Disk(str(path), read_only=True)], 0)
    assert home_disks([Disk(str(path))], 0)[1].name == "/dev/sda"
    assert fsck(path) == ""


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_the_kind_of_a_file_system_is_seen(tmp_path, kind):
    path = tmp_path / "d.img"
    subprocess.run([need("mke2fs", "e2fsprogs"), "-q", "-t", kind, str(path), "16M"], check=True)
    assert find_ext4(Disk(str(path))).fs_type == kind
    mkfs_file(str(path), None, MkfsOptions(kind=kind), force=True)
    assert find_ext4(Disk(str(path))).fs_type == kind


def test_a_partition_table_of_sfdisk_is_understood(tmp_path):
    for label, table in (("dos", "2048,2048\n4096,8192\n16384,,E\n18432,2048\n22528,2048\n"), ("gpt", "2048,2048\n4096,8192\n")):
        path = tmp_path / f"{label}.img"
        path.write_bytes(b"")
        os.truncate(path, 64 * M)
        subprocess.run([need("sfdisk", "fdisk"), "-q", str(path)], input=f"label: {label}\n{table}", text=True, check=True)
        listed = subprocess.run(["sfdisk", "-q", "-l", "-o", "Start,Sectors,Type", str(path)], capture_output=True,
                                text=True).stdout.splitlines()[1:]
        expected = [tuple(map(int, line.split()[:2])) for line in listed if "Extended" not in line]
        disk = Disk(str(path))
        assert [(a // 512, b // 512) for _, a, b in partitions(disk.read_bytes, disk.size)] == expected


def test_the_plan_of_a_large_device_is_quick():
    assert plan(16 << 40, MkfsOptions()).groups == 131072


def test_the_image_of_the_default_disk_is_what_mkfs_makes():
    from pathlib import Path

    from glasskernel.tools.image.home import HOME
    from glasskernel.tools.image.home_image import home_image

    made, kept = zlib.decompress(home_image()), zlib.decompress(Path(HOME).read_bytes())
    assert made == kept, "run: python -m glasskernel.tools.image.home_image"
