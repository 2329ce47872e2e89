"""Files and directories on ext4, with real programs; e2fsck judges each image afterwards."""
import pytest

from tests.ext4.conftest import fsck

FORMATS = ["-t ext4", "-t ext4 -b 1024", "-t ext4 -O ^has_journal -b 4096", "-t ext4 -O ^metadata_csum,uninit_bg",
           "-t ext4 -O ^64bit,^flex_bg,^metadata_csum -I 128 -b 2048", "-t ext4 -O meta_bg,^resize_inode"]


@pytest.mark.parametrize("options", FORMATS)
def test_what_programs_write_is_there_after_a_remount_and_e2fsck_is_content(ext4, options):
    """mkdir, cp -r, mv, ln, rm, truncate, dd, find: the everyday life of a file system."""
    fs = ext4(options)
    before = fs.sh("""cd /mnt
        mkdir -p a/b/c; cp /usr/bin/[a-f]* a/b/ 2>/dev/null; for i in 1 2 3 4 5 6 7 8 9; do seq $i 1000 > a/s$i; done
        mv a/s1 a/b/c/moved; ln a/s2 hard; ln -s a/s3 soft; ln -s $(printf 'x%.0s' $(seq 200)) long
        rm a/b/[a-b]*; truncate -s 100 a/s4; truncate -s 100000 a/s5; rmdir a/b/c 2>/dev/null; mkfifo fifo; mknod null c 1 3
        dd if=/dev/urandom of=big bs=1000 count=3000 2>/dev/null; dd if=/dev/zero of=sparse bs=1 count=1 seek=3M 2>/dev/null
        find . -type f | sort | xargs sha1sum; ls -l | awk '{print $1,$5,$9}'""")
    fs.done()
    fs.mount()
    after = fs.sh("cd /mnt; find . -type f | sort | xargs sha1sum; ls -l | awk '{print $1,$5,$9}'")
    assert after == before
    fs.done()


@pytest.mark.parametrize(("kind", "options"), [("ext2", "-t ext2 -b 1024"), ("ext3", "-t ext3 -b 1024"), ("ext2", "-t ext2 -b 4096")])
def test_ext2_and_ext3_images_mount_through_the_same_code(ext4, kind, options):
    """Block maps with indirect blocks; files large enough for double indirect ones."""
    fs = ext4(options, mount=None)
    fs.mount(kind=kind)
    assert f"mounting {kind} file system using the ext4 subsystem" in fs.dmesg()
    before = fs.sh("""cd /mnt; mkdir d; head -c 6M /dev/urandom > d/big; cp d/big copy; truncate -s 300000 copy; seq 10000 > s
        rm d/big; head -c 500k /dev/urandom > d/small; sha1sum copy s d/small""")
    fs.done()
    fs.mount(kind=kind)
    assert fs.sh("cd /mnt; sha1sum copy s d/small") == before
    fs.done()


@pytest.mark.parametrize("mode", ["ordered", "writeback", "journal"])
def test_the_data_modes(ext4, mode):
    """mount(8) data=: the same bytes in the end; /proc/mounts shows what was asked for."""
    fs = ext4("-t ext4 -b 1024", mount=f"data={mode}")
    shown = fs.sh("grep ' /mnt ' /proc/mounts")
    assert f"data={mode}" in fs.sh("cat /proc/fs/ext4/sda/options")
    assert f"data={mode}" in shown               # asked for explicitly: shown, even the default
    total = fs.sh("cd /mnt; for i in $(seq 20); do seq $i 2000 > f$i; done; cat f* >> all; sync; rm f1*; sha1sum all f2")
    fs.done()
    fs.mount(f"data={mode}")
    assert fs.sh("cd /mnt; sha1sum all f2") == total
    fs.done()


def test_a_directory_of_many_names_is_indexed(ext4):
    """htree: made at the first split, two levels, every name found, readdir tells each once."""
    fs = ext4("-t ext4 -b 1024", size="64M")
    fs.sh("mkdir /mnt/d; cd /mnt/d; for i in $(seq 4000); do echo a_rather_long_name_of_a_file_$i; done | xargs touch")
    assert "I" in fs.sh("lsattr -d /mnt/d").split()[0]
    assert fs.sh("ls /mnt/d | sort | uniq | wc -l; ls -f /mnt/d | wc -l").split() == ["4000", "4002"]
    fs.sh("cd /mnt/d; for i in $(seq 1 7 4000); do echo a_rather_long_name_of_a_file_$i; done | xargs rm; "
          "test -e a_rather_long_name_of_a_file_2 && ! test -e a_rather_long_name_of_a_file_8")
    fs.done()
    fs.mount()
    assert fs.sh("ls /mnt/d | wc -l; rm -r /mnt/d; ls /mnt").split() == ["3428", "lost+found"]
    fs.done()


def test_rename_with_its_flags(ext4, build_c):
    """renameat2(2): NOREPLACE, EXCHANGE, WHITEOUT; a directory that moves gets a new '..'."""
    program = build_c(r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <fcntl.h>
#include <errno.h>
#include <unistd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
static int r(const char *a, const char *b, int flags) { return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags) ? errno : 0; }
int main(void) { struct stat s, t;
  chdir("/mnt"); mkdir("d", 0755); mkdir("d/sub", 0755); mkdir("e", 0755); close(creat("x", 0644)); close(creat("e/y", 0600));
  if (r("x", "e/y", 1) != EEXIST) return 1;
  if (r("d/sub", "e/y", 2)) return 2;
  if (stat("d/sub", &s) || !S_ISREG(s.st_mode) || stat("e/y/..", &s) || stat("e", &t) || s.st_ino != t.st_ino) return 3;
  if (stat("d", &s) || s.st_nlink != 2 || t.st_nlink != 3) return 4;
  if (r("x", "z", 4)) return 5;
  if (lstat("x", &s) || !S_ISCHR(s.st_mode) || s.st_rdev) return 6;
  if (r("z", "e", 0) != EISDIR || r("d", "e", 0) != ENOTEMPTY || r("e", "e/y/in", 0) != EINVAL) return 7;
  if (r("e/y", "up", 0) || stat("up/..", &s) || stat(".", &t) || s.st_ino != t.st_ino) return 8;
  return 0; }""")
    fs = ext4()
    fs.sh(f"/programs/{program.name}")
    fs.done()


def test_a_file_that_is_open_lives_on_after_its_name(ext4, build_c):
    """unlink(2), O_TMPFILE and linkat(2): the orphan list holds what has no name."""
    program = build_c(r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
int main(void) { char b[8] = {0}, p[64]; struct stat s;
  int f = open("/mnt/gone", O_RDWR | O_CREAT, 0600); write(f, "still", 5); unlink("/mnt/gone");
  if (pread(f, b, 5, 0) != 5 || strcmp(b, "still") || fstat(f, &s) || s.st_nlink) return 1;
  int t = open("/mnt", O_TMPFILE | O_RDWR, 0600); if (t < 0 || write(t, "named", 5) != 5) return 2;
  sprintf(p, "/proc/self/fd/%d", t);
  if (linkat(AT_FDCWD, p, AT_FDCWD, "/mnt/named", AT_SYMLINK_FOLLOW)) return 3;
  close(t); return 0; }""")
    fs = ext4()
    free = fs.sh("df --output=avail /mnt")
    fs.sh(f"/programs/{program.name}; cat /mnt/named; rm /mnt/named; sync")
    assert fs.sh("df --output=avail /mnt") == free
    fs.done()


def test_holes_fallocate_and_seek(ext4, build_c):
    """fallocate(2) in each mode against a copy in memory; SEEK_DATA, SEEK_HOLE; st_blocks."""
    program = build_c(r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/stat.h>
static char m[2000000], b[2000000]; static int f; static long size;
static int same(int n) { struct stat s; memset(b, 1, sizeof b); fstat(f, &s);
  if (s.st_size != size || pread(f, b, sizeof b, 0) != size || memcmp(m, b, size)) { printf("differs at step %d\n", n); exit(1); } return 0; }
int main(void) { struct stat s;
  f = open("/mnt/f", O_RDWR | O_CREAT, 0600); for (int i = 0; i < 1000000; i++) m[i] = i * 7 + i / 1000; size = 1000000;
  write(f, m, size); same(0);
  fallocate(f, 3, 10000, 200000); memset(m + 10000, 0, 200000); same(1);
  if (lseek(f, 0, SEEK_HOLE) != 12288 || lseek(f, 20000, SEEK_DATA) != 208896) return 2;
  fallocate(f, 0x10, 300001, 50000); memset(m + 300001, 0, 50000); same(2);
  fallocate(f, 8, 8192, 40960); memmove(m + 8192, m + 8192 + 40960, size); size -= 40960; same(3);
  fallocate(f, 0x20, 4096, 8192); memmove(m + 4096 + 8192, m + 4096, size); memset(m + 4096, 0, 8192); size += 8192; same(4);
  fallocate(f, 0, size, 50000); memset(m + size, 0, 50000); size += 50000; same(5);
  fallocate(f, 1, 1500000, 100000); same(6);
  fsync(f); same(7); fstat(f, &s); if (s.st_blocks < 200) return 3;
  ftruncate(f, 12345); size = 12345; same(8); ftruncate(f, 400000); memset(m + 12345, 0, 400000); size = 400000; same(9);
  return 0; }""")
    fs = ext4("-t ext4 -b 4096")
    fs.sh(f"/programs/{program.name}; cp /mnt/f /mnt/g; cmp /mnt/f /mnt/g")
    fs.done()
    fs.mount()
    fs.sh("cmp /mnt/f /mnt/g; filefrag -v /mnt/f > /mnt/report; test -s /mnt/report")
    fs.done()


def test_direct_io_and_the_page_cache_agree(ext4):
    """O_DIRECT: unwritten extents become written, what is cached is stored first."""
    fs = ext4("-t ext4 -b 4096")
    fs.sh("""cd /mnt; head -c 1M /dev/urandom > src; sync
        dd if=src of=direct bs=64k oflag=direct 2>/dev/null; cmp src direct
        fallocate -l 1M pre; dd if=src of=pre bs=128k oflag=direct conv=notrunc 2>/dev/null; cmp src pre
        dd if=direct bs=4k iflag=direct 2>/dev/null | cmp - src""")
    fs.done()


def test_shared_mappings_are_written(ext4, build_c):
    """mmap(2) MAP_SHARED over a hole: page_mkwrite reserves, writeback allocates."""
    program = build_c(r"""
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
int main(void) { int f = open("/mnt/m", O_RDWR | O_CREAT, 0600); ftruncate(f, 1000000);
  char *p = mmap(0, 1000000, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  for (int i = 0; i < 1000000; i += 5000) p[i] = 'A' + i / 5000 % 26;
  msync(p, 1000000, MS_SYNC); p[999999] = '!'; munmap(p, 1000000); return 0; }""")
    fs = ext4("-t ext4 -b 1024")
    fs.sh(f"/programs/{program.name}; sync")
    total = fs.sh("sha1sum /mnt/m; tail -c 1 /mnt/m")
    assert total.endswith("!")
    fs.done()
    fs.mount()
    assert fs.sh("sha1sum /mnt/m; tail -c 1 /mnt/m") == total
    fs.done()


def test_a_full_disk_says_enospc_and_recovers(ext4):
    """ENOSPC at write(2), nothing lost of what was acknowledged, space comes back."""
    fs = ext4("-t ext4 -b 1024", size="8M")
    assert "No space left" in fs.run("head -c 20M /dev/zero > /mnt/fill; sync").stderr.decode()
    fs.sh("rm /mnt/fill; sync; head -c 3M /dev/urandom > /mnt/fits; sync")
    fs.done()


def test_statfs_and_inode_numbers_are_those_of_the_image(ext4, image):
    """statfs(2): blocks without the overhead, as dumpe2fs counts them."""
    fs = ext4("-t ext4 -b 4096", size="64M")
    fields = dict(zip(("type", "blocks", "free", "inodes", "ifree"), fs.sh("stat -f -c '%t %b %f %c %d' /mnt").split()))
    assert fields["type"] == "ef53" and int(fields["inodes"]) == 16384 and int(fields["ifree"]) == 16384 - 11
    assert fs.sh("stat -c '%i %h %F' /mnt").strip() == "2 3 directory"
    assert 0 < int(fields["free"]) <= int(fields["blocks"]) < 16384
    fs.done()


def test_times_have_nanoseconds_and_a_birth(ext4):
    """statx(2): btime; extra_isize holds years behind 2038."""
    fs = ext4()
    fs.sh("touch -d '2100-01-02 03:04:05.123456789 UTC' /mnt/f")
    fs.done()
    fs.mount()
    assert fs.sh("TZ=UTC stat -c '%y %W' /mnt/f").startswith("2100-01-02 03:04:05.123456789")
    assert int(fs.sh("stat -c %W /mnt/f")) > 1_500_000_000
    fs.done()


def test_an_image_that_mke2fs_filled_reads_back(ext4, tmp_path):
    """mke2fs -d: extents, symlinks, attributes and directories that another program wrote."""
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    for i in range(300):
        (root / "dir" / f"file{i}").write_text(f"{i}\n" * i)
    (root / "link").symlink_to("dir/file7")
    (root / "big").write_bytes(bytes(range(256)) * 8192)
    fs = ext4(root=root)
    assert fs.sh("cd /mnt; ls dir | wc -l; cat link; sha1sum < big; sha1sum dir/file299") == (
        "300\n" + "7\n" * 7 + __import__("hashlib").sha1(bytes(range(256)) * 8192).hexdigest() + "  -\n"
        + __import__("hashlib").sha1(b"299\n" * 299).hexdigest() + "  dir/file299\n")
    fs.done()
    assert fsck(fs.path) == ""


def test_tasks_that_need_the_same_inode_wait_for_the_one_that_reads_it(ext4):
    """iget_locked(): links of one cold inode in several directories, looked up at once from a slow disk."""
    fs = ext4("-t ext4 -b 1024", model="hdd")
    fs.sh("cd /mnt; for d in 1 2 3 4 5 6; do mkdir d$d; done; seq 100 > d1/f; for d in 2 3 4 5 6; do ln d1/f d$d/f; done")
    fs.umount()
    fs.mount()
    sizes = fs.sh("cd /mnt; ls -d d* > /dev/null; for d in 1 2 3 4 5 6; do stat -c '%s %h %F' d$d/f & done; wait")
    assert sizes.splitlines() == ["292 6 regular file"] * 6
    fs.done()
