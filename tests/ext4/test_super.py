"""Mounting: options, features, recovery, damage, attributes."""
import random
import re
import shutil
import subprocess

import pytest

from glasskernel.init.command import KernelStopped
from tests.ext4.conftest import debugfs, fsck


def test_options_are_shown_as_linux_shows_them(ext4):
    """/proc/mounts: what differs from the defaults of the super block; /proc/fs/ext4 has all."""
    fs = ext4(mount="noatime,nodelalloc,nobarrier,commit=30,errors=remount-ro,noacl,discard,inode_readahead_blks=8")
    assert fs.sh("grep ' /mnt ' /proc/mounts") == (
        "/dev/sda /mnt ext4 rw,noatime,discard,nodelalloc,nobarrier,noacl,errors=remount-ro,commit=30,"
        "inode_readahead_blks=8 0 0\n")
    fs.sh("mount -o remount,ro /mnt")
    assert "Read-only file system" in fs.run("touch /mnt/x").stderr.decode()
    assert fs.sh("head -1 /proc/fs/ext4/sda/options") == "ro\n"
    fs.sh("mount -o remount,rw,commit=5 /mnt; touch /mnt/x; cat /sys/fs/ext4/sda/errors_count; head -2 /proc/fs/ext4/sda/mb_groups")
    fs.done()


def test_a_bad_option_is_refused_with_a_message(ext4):
    """EINVAL and a line in the log."""
    fs = ext4(mount=None)
    assert fs.run("mkdir -p /mnt; mount -t ext4 -o nonsense /dev/sda /mnt").status == 32
    assert 'Unrecognized mount option "nonsense" or missing value' in fs.dmesg()


@pytest.mark.parametrize(("options", "message"), [
    ("-t ext4 -O inline_data", "Couldn't mount because of unsupported optional features (8000)"),
    ("-t ext4 -O encrypt", "Couldn't mount because of unsupported optional features (10000)"),
    ("-t ext4 -O casefold", "Couldn't mount because of unsupported optional features (20000)"),
    ("-t ext4 -O mmp", "Couldn't mount because of unsupported optional features (100)"),
    ("-t ext4 -O quota", "Filesystem with quota feature cannot be mounted RDWR without CONFIG_QUOTA"),
    ("-t ext4 -O bigalloc", "Couldn't mount RDWR because of unsupported optional features (200)"),
])
def test_features_that_are_not_here_are_refused_clearly(ext4, options, message):
    fs = ext4(options, mount=None)
    assert fs.run("mkdir -p /mnt; mount -t ext4 /dev/sda /mnt").status == 32
    assert message in fs.dmesg()


def test_what_is_no_ext4_is_refused(ext4, tmp_path):
    """EINVAL: no magic number; a super block whose checksum is wrong (EBADMSG)."""
    path = tmp_path / "zero.img"
    path.write_bytes(bytes(8 << 20))
    fs = ext4(mount=None, path=path)
    assert fs.run("mkdir -p /mnt; mount -t ext4 /dev/sda /mnt").status == 32
    assert "VFS: Can't find ext4 filesystem" in fs.dmesg()


def test_an_unclean_journal_is_replayed(ext4, boot, tmp_path):
    """What was fsynced before the machine stopped is there; e2fsck is content after recovery."""
    fs = ext4("-t ext4 -b 1024")
    fs.sh("""cd /mnt; mkdir d; for i in $(seq 50); do seq $i 500 > d/f$i; done; sync
        for i in $(seq 1 3 50); do rm d/f$i; done; seq 9 9999 > last; sync d/f2 last; seq 7 > lost""")
    crashed = tmp_path / "crashed.img"
    shutil.copy(fs.path, crashed)                    # the machine stops here
    again = ext4(mount="", path=crashed)
    assert "EXT4-fs (sda): recovery complete" in again.dmesg()
    assert again.sh("cd /mnt; seq 9 9999 | cmp - last; ls d | wc -l").strip() == "33"
    again.done()


def test_orphans_are_deleted_by_the_next_mount(ext4, build_c, tmp_path):
    """A file that was open without a name when the machine stopped gives its blocks back."""
    fs = ext4("-t ext4 -b 1024")
    program = build_c(r"""
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
static char b[500000];
int main(void) { int f = open("/mnt/orphan", O_RDWR | O_CREAT, 0600); write(f, b, sizeof b); fsync(f); unlink("/mnt/orphan");
  int g = open("/mnt/x", O_RDWR | O_CREAT, 0600); fsync(g); sync(); write(1, "now\n", 4); sleep(100); return 0; }""")
    fs.sh(f"/programs/{program.name} > /tmp/out & echo $! > /tmp/pid; for i in $(seq 100); do grep -q now /tmp/out && break; sleep 0.1; done; sync")
    crashed = tmp_path / "crashed.img"
    shutil.copy(fs.path, crashed)
    fs.sh("kill -9 $(cat /tmp/pid); sleep 0.1")
    again = ext4(mount="", path=crashed)
    assert "1 orphan inode deleted" in again.dmesg()
    again.done()


def test_an_error_makes_the_file_system_read_only(ext4, image):
    """errors=remount-ro: EXT4-fs error, the error fields of the super block, EROFS from then on."""
    path = image("-t ext4 -b 1024 -O ^metadata_csum")
    debugfs(path, "mkdir d", "write /etc/passwd d/f", "set_inode_field d block[2] 0", "set_inode_field d/f block[5] 0xffffff")
    fs = ext4(mount="errors=remount-ro", path=path)
    assert fs.run("cat /mnt/d/f").status != 0
    assert fs.run("ls /mnt/d; touch /mnt/new").status != 0
    log = fs.dmesg()
    assert "EXT4-fs error (device sda): " in log and "Remounting filesystem read-only" in log
    assert int(fs.sh("cat /sys/fs/ext4/sda/errors_count")) > 0
    fs.umount()
    assert "FS Error count" in subprocess.run(["dumpe2fs", "-h", str(path)], capture_output=True, text=True).stdout


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_image_never_breaks_the_kernel(ext4, image, seed):
    """Random bytes in the metadata: errors and messages, no oops, no endless loop."""
    path = image("-t ext4 -b 1024" + (" -O ^metadata_csum" if seed & 1 else ""), size="8M")
    good = ext4(path=path)
    good.sh("cd /mnt; cp -r /usr/share/doc/bash .; mkdir many; cd many; seq 300 | xargs touch; ln -s x y; setfattr -n user.a -v b 7")
    good.done()
    dice = random.Random(seed)
    with open(path, "r+b") as f:
        for _ in range(60):
            f.seek(dice.randrange(2048, 1 << 20))
            f.write(dice.randbytes(dice.choice((1, 2, 4, 32))))
    fs = ext4(mount=None, path=path, cmdline="oops=panic")
    try:
        fs.run("""mkdir -p /mnt; mount -t ext4 -o errors=continue /dev/sda /mnt || exit 0
            cd /mnt; ls -laR > /tmp/list; head -qc 100k bash/* many/* > /dev/null; mkdir n; seq 1000 > n/f; rm -rf many; mv bash m; truncate -s '<100k' m/*; cp -r m c
            getfattr -d -R . > /dev/null; truncate -s 10 m/*; sync; cd /; umount /mnt""")
    except KernelStopped as stopped:
        raise AssertionError(fs.kernel.oopses) from stopped
    assert not fs.kernel.oopses


def test_extended_attributes_in_the_inode_and_in_a_block(ext4):
    """user., trusted., security.: set, get, list, remove; large ones go to a block that equal inodes share."""
    fs = ext4("-t ext4 -b 1024")
    fs.sh("""cd /mnt; touch a b c; mkdir d; ln -s a l
        setfattr -n user.small -v hello a; setfattr -n user.big -v $(printf 'y%.0s' $(seq 600)) a
        for f in b c; do for i in 1 2 3 4 5 6; do setfattr -n user.attr$i -v $(printf "$i%.0s" $(seq 60)) $f; done; done
        setfattr -n trusted.t -v root d; setfattr -n security.s -v x d; setfattr -x user.attr3 c""")
    shown = fs.sh("cd /mnt; getfattr -d -m - a b c d | sha1sum; getfattr --only-values -n user.small a")
    assert shown.endswith("hello")
    assert "No such attribute" in fs.run("getfattr -n user.none /mnt/a").stderr.decode()
    assert "No space left" in fs.run("setfattr -n user.huge -v $(printf 'z%.0s' $(seq 3000)) /mnt/a").stderr.decode()
    fs.done()
    fs.mount()
    assert fs.sh("cd /mnt; getfattr -d -m - a b c d | sha1sum; getfattr --only-values -n user.small a") == shown
    fs.sh("rm -r /mnt/[a-d]")
    fs.done()


def test_access_control_lists(ext4):
    """acl(5): named users and groups, the mask, default ACLs of directories; chmod changes the mask."""
    fs = ext4()
    fs.sh("""cd /mnt; chmod 755 .; echo secret > f; chmod 600 f; setfacl -m u:1234:r f; mkdir d
        setfacl -d -m u:1234:rwx,g:77:r d; touch d/child; mkdir d/sub""")
    assert "user:1234:r--" in fs.sh("getfacl -n /mnt/f") and "user:1234:rwx" in fs.sh("getfacl -n /mnt/d/child")
    assert "default:group:77:r--" in fs.sh("getfacl -n /mnt/d/sub")
    assert fs.kernel.run(["/bin/cat", "/mnt/f"], uid=1234, gid=1234, cwd="/").stdout == b"secret\n"
    assert fs.kernel.run(["/bin/cat", "/mnt/f"], uid=1235, gid=1235, cwd="/").status != 0
    fs.sh("chmod 600 /mnt/f")
    assert fs.kernel.run(["/bin/cat", "/mnt/f"], uid=1234, gid=1234, cwd="/").status != 0
    fs.done()
    fs.mount()
    assert "user:1234:r--" in fs.sh("getfacl -n /mnt/f")
    fs.done()


def test_flags_of_chattr(ext4):
    """EXT4_IOC_SETFLAGS: immutable and append-only files; lsattr shows extents and indexes."""
    fs = ext4()
    fs.sh("cd /mnt; touch a i; chattr +i i; chattr +a a; echo x >> a")
    assert fs.run("echo y >> /mnt/i").status != 0 and fs.run("rm /mnt/i").status != 0 and fs.run("echo z > /mnt/a").status != 0
    assert "i" in fs.sh("lsattr /mnt/i").split()[0] and "e" in fs.sh("lsattr /mnt/a").split()[0]
    fs.sh("cd /mnt; chattr -i i; chattr -a a; rm i a; lsattr -v -d /mnt")
    fs.done()


def test_inode_tables_are_zeroed_in_the_background(ext4):
    """ext4lazyinit: the thread does what mke2fs -E lazy_itable_init left."""
    fs = ext4("-t ext4 -b 1024 -E lazy_itable_init=1", size="64M")
    assert "ext4lazyinit" in fs.sh("ps -e -o comm")
    fs.sh("sleep 300")
    fs.done()
    shown = subprocess.run(["dumpe2fs", str(fs.path)], capture_output=True, text=True).stdout
    groups = [line for line in shown.splitlines() if re.match(r"Group \d", line)]
    assert groups and all("ITABLE_ZEROED" in line for line in groups)


def test_the_journal_is_closed_by_umount(ext4):
    """needs_recovery is set while mounted and gone afterwards; the state is clean."""
    fs = ext4()
    fs.sh("touch /mnt/x; sync")
    during = subprocess.run(["dumpe2fs", "-h", str(fs.path)], capture_output=True, text=True).stdout
    assert "needs_recovery" in during and "Last mounted on:" in during
    fs.done()
    after = subprocess.run(["dumpe2fs", "-h", str(fs.path)], capture_output=True, text=True).stdout
    assert "needs_recovery" not in after and "Filesystem state:         clean" in after
    assert fsck(fs.path) == ""
