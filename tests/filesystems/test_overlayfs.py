"""overlayfs: / can be written to, and the host's files stay as they are."""

import os
import shutil
from random import Random

import pytest


@pytest.fixture
def root(tmp_path):
    """A root directory on the host with a few files; programs come from a share."""
    tree = tmp_path / "root"
    for name in ("bin", "dir/sub", "etc", "root", "tmp", "proc"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o755)
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "dir/file").write_text("lower\n")
    (tree / "dir/other").write_text("other\n")
    (tree / "dir/sub/deep").write_text("deep\n")
    (tree / "dir/link").symlink_to("file")
    (tree / "dir/hard").hardlink_to(tree / "dir/file")
    return tree


@pytest.fixture
def shell(boot, root):
    """shell(script) runs busybox sh on the overlay over `root`; always the same kernel."""
    kernel = boot(root=str(root))

    def go(script, **options):
        command = ["/bin/busybox", "sh", "-c", "exec 2>&1; " + script]
        result = kernel.run(command, env={"PATH": "/bin"}, cwd="/dir", **options)
        return result.stdout.decode()

    go.kernel = kernel
    for applet in ("cat", "ls", "stat", "mv", "rm", "mkdir", "rmdir", "chmod", "ln", "touch", "sort", "wc"):
        assert go(f"/bin/busybox ln -s busybox /bin/{applet}") == ""
    return go


def snapshot(directory):
    found = {}
    for path in sorted(directory.rglob("*")):
        st = path.lstat()
        data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (st.st_mode, st.st_ino, st.st_mtime_ns, st.st_nlink, data)
    return found


@pytest.fixture(autouse=True)
def the_host_stays_as_it_was(root):
    before = snapshot(root)
    yield
    assert snapshot(root) == before


def test_a_write_goes_to_the_copy(shell):
    assert shell("echo more >> file; cat file; echo new > file; cat file; cat link") == "lower\nmore\nnew\nnew\n"


def test_inode_and_device_numbers_stay_when_a_file_is_copied_up(shell):
    script = "stat -c '%d %i' other; echo x > other; stat -c '%d %i' other; ls -i other"
    before, after, listed = shell(script).splitlines()
    assert before == after
    assert listed.split()[0] == after.split()[1]


def test_ls_shows_the_numbers_that_stat_shows(shell):
    text = shell("echo x > other; mkdir new; for i in $(ls); do ls -id $i; stat -c '%i %n' $i; done")
    pairs = [line.split() for line in text.splitlines()]
    assert pairs[::2] == pairs[1::2]
    assert len({number for number, _ in pairs[::2]}) >= 5


def test_a_removed_file_stays_removed_and_can_be_made_again(shell):
    assert shell("rm file; ls; cat file; echo again > file; cat file; ls") == (
        "hard\nlink\nother\nsub\ncat: can't open 'file': No such file or directory\n"
        "again\nfile\nhard\nlink\nother\nsub\n")


def test_a_removed_directory_made_again_is_empty(shell):
    assert shell("rm -r sub; ls -d sub; mkdir sub; ls -a sub; ls sub/deep") == (
        "ls: sub: No such file or directory\n.\n..\nls: sub/deep: No such file or directory\n")


def test_a_directory_with_names_of_both_layers_is_not_empty_until_all_are_gone(shell):
    assert shell("echo x > sub/new; rmdir sub; ls sub; rm sub/deep; rmdir sub; rm sub/new; rmdir sub; ls") == (
        "rmdir: 'sub': Directory not empty\ndeep\nnew\nrmdir: 'sub': Directory not empty\nfile\nhard\nlink\nother\n")


def test_rename_of_a_file_and_over_a_file(shell):
    assert shell("mv other moved; ls; mv file moved; ls; cat moved; echo back > other; cat other") == (
        "file\nhard\nlink\nmoved\nsub\nhard\nlink\nmoved\nsub\nlower\nback\n")


def test_rename_of_a_lower_directory_is_exdev_and_mv_copies(shell):
    assert shell("mv sub moved; ls; cat moved/deep") == "file\nhard\nlink\nmoved\nother\ndeep\n"


def test_rename_reports_exdev(run_c, root):
    source = """
    #include <errno.h>
    #include <stdio.h>
    #include <sys/stat.h>
    int main(void) {
        printf("%d", rename("/dir/sub", "/dir/moved") ? errno : 0);
        mkdir("/dir/new", 0755);
        printf(" %d", rename("/dir/new", "/dir/newer") ? errno : 0);
    }"""
    assert run_c(source, root=str(root)).stdout == b"18 0"


def test_a_new_directory_moved_over_a_removed_one_hides_it(shell):
    assert shell("rm -r sub; mkdir new; echo x > new/only; mv new sub; ls sub") == "only\n"


def test_chmod_keeps_the_data(shell):
    assert shell("chmod 600 file; stat -c %a file; cat file") == "600\nlower\n"


def test_hard_links_in_the_upper_layer(shell):
    script = "ln other second; stat -c %h other; echo changed > second; cat other; rm other; stat -c %h second"
    assert shell(script) == "2\nchanged\n1\n"


def test_a_file_open_for_reading_sees_what_is_written_after_the_copy(shell):
    assert shell("exec 3< other; echo changed > other; cat <&3") == "changed\n"


def test_an_open_file_outlives_its_name(shell):
    assert shell("exec 3< file; rm file; cat <&3") == "lower\n"


def test_truncate_of_a_lower_file_does_not_copy_its_data(shell):
    assert shell(": > file; stat -c %s file; cat hard") == "0\nlower\n"


def test_read_and_mmap_share_pages(run_c, root):
    """A store through a shared mapping is seen by read(2), before and after the file was copied up."""
    source = r"""
    #include <fcntl.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    int main(void) {
        char b[6] = {0};
        int r = open("/dir/file", O_RDONLY);
        char *old = mmap(0, 4096, PROT_READ, MAP_PRIVATE, r, 0);
        printf("%.5s ", old);
        int w = open("/dir/file", O_RDWR);
        char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w, 0);
        memcpy(p, "LOWER", 5);
        pread(w, b, 5, 0); printf("%s ", b);
        pwrite(w, "write", 5, 0); printf("%.5s ", p);
        pread(r, b, 5, 0); printf("%s %.5s", b, old);
    }"""
    assert run_c(source, root=str(root)).stdout == b"lower LOWER write write lower"


def test_a_user_may_write_his_file_in_a_directory_he_cannot_write(shell, root):
    shell("mkdir /dir/sub/mine; echo old > /dir/sub/mine/f; chmod 666 /dir/sub/mine/f")
    assert shell("echo new > /dir/sub/mine/f; cat /dir/sub/mine/f; echo x > /dir/sub/mine/g", uid=1000) == (
        "new\nsh: can't create /dir/sub/mine/g: Permission denied\n")
    assert shell("echo new > file", uid=1000) == "sh: can't create file: Permission denied\n"


def test_a_copied_up_file_keeps_owner_mode_and_time(shell, root):
    before = shell("stat -c '%u %g %a' other; touch -d '2020-01-01 00:00:00' other; stat -c '%Y' other; "
                   "chmod 640 other; stat -c '%u %g %a %Y' other").splitlines()
    assert before[0].split()[:2] == before[2].split()[:2]
    assert before[1] == before[2].split()[3] == "1577836800"


def test_statfs_and_mount_options(boot):
    kernel = boot()
    text = kernel.run(["cat", "/proc/mounts"]).stdout.decode().splitlines()[0]
    assert text == "overlay / overlay rw,relatime,lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work 0 0"
    assert kernel.run(["stat", "-f", "-c", "%t", "/"]).stdout == b"794c7630\n"


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_leave_the_tree_that_linux_leaves(boot, root, host, tmp_path, seed):
    """The same 120 random commands on the overlay and on a copy of the lower tree on the host."""
    random = Random(seed)
    names = ["file", "other", "sub", "link", "hard", "a", "b", "sub/deep", "sub/a", "a/x", "b/y", "a/sub", "sub/sub"]
    commands = []
    for i in range(120):
        first, second = random.choice(names), random.choice(names)
        commands.append(random.choice([
            f"echo {i} > {first}", f"echo {i} >> {first}", f"rm {first}", f"rm -r {first}", f"mkdir {first}",
            f"rmdir {first}", f"mv {first} {second}", f"ln {first} {second}", f"ln -s {first} {second}",
            f"chmod {random.choice(['600', '755', '640'])} {first}", f"cat {first}", f"mv -T {first} {second}",
            f"test -e {first} && truncate -s {random.randrange(9)} {first}", f"cp -r {first} {second}",
        ]))
    commands.append("find . | sort | while read f; do stat -c '%A %n %s %N' \"$f\" | sed 's/ [0-9]* / S /'; done")
    commands.append("find . -type f | sort | xargs cat")
    script = "\n".join(f"{c} 2>/dev/null; echo {i} $?" for i, c in enumerate(commands))
    shutil.copytree(root / "dir", tmp_path / "copy", symlinks=True)     # copies `hard`, as copying up does
    binary = str(root / "bin/busybox")
    expected = host([binary, "sh", "-c", script], cwd=tmp_path / "copy", env={"PATH": "/nonexistent"})
    kernel = boot(root=str(root))
    result = kernel.run(["/bin/busybox", "sh", "-c", script], cwd="/dir", env={"PATH": "/nonexistent", "LC_ALL": "C"})
    for mine, real in zip(result.stdout.splitlines(), expected.stdout.splitlines()):
        assert mine == real, "; ".join(commands[: int(real.split()[0]) + 1][-25:]) if b" " in real else mine
    assert result.stdout == expected.stdout
    assert len(result.stdout.splitlines()) > 120


def test_lower_links_become_different_files(shell):
    count = "stat -c %i file hard | sort -u | wc -l"
    assert shell(f"{count}; echo x > file; echo y > hard; {count}; cat file hard") == "1\n2\nx\ny\n"
