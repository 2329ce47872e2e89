"""Inventory A14: what the labs do with a source tree, as the same Debian programs do it on Linux: `agree` compares."""
import pytest

from tests.conftest import PROGRAMS, need

TREE = r"""
mkdir -p drivers/scsi/isci include fs
cat > drivers/scsi/isci/init.c <<'C'
#include "isci.h"
int isci_host_alloc(struct isci_host *ihost) {
    tasklet_init(&ihost->completion_tasklet,
                 isci_host_completion_routine, (unsigned long)ihost);
    return 0;
}
C
cat > drivers/scsi/isci/host.c <<'C'
irqreturn_t isci_intx_isr(int vec, void *data) {
    tasklet_schedule(&ihost->completion_tasklet);
    return IRQ_HANDLED;
}
C
cat > fs/namei.c <<'C'
SYSCALL_DEFINE5(renameat2, int, olddfd, const char __user *, oldname,
		int, newdfd, const char __user *, newname, unsigned int, flags)
{
	return do_renameat2(olddfd, oldname, newdfd, newname, flags);
}
SYSCALL_DEFINE2(rename, const char __user *, oldname, const char __user *, newname)
{
	return do_renameat2(AT_FDCWD, oldname, AT_FDCWD, newname, 0);
}
C
echo 'struct isci_host { int tasklet; };' > include/isci.h
printf 'VERSION = 5\nPATCHLEVEL = 3\nSUBLEVEL = 0\nkernelversion:\n\t@echo $(VERSION).$(PATCHLEVEL).$(SUBLEVEL)\n' > Makefile
"""
GIT = {"GIT_AUTHOR_NAME": "Al Viro", "GIT_AUTHOR_EMAIL": "al@example.org", "GIT_COMMITTER_NAME": "Al Viro",
       "GIT_COMMITTER_EMAIL": "al@example.org", "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat", "GIT_CONFIG_GLOBAL": "/dev/null"}
HISTORY = TREE + r"""
git init -q -b master . && git remote add origin https://example.org/linux.git
commit() { git add -A; GIT_AUTHOR_DATE=$1 GIT_COMMITTER_DATE=$1 git commit -qm "$2" ${3:+--author "$3"}; }
commit 2018-05-01T12:00:00Z 'bpf: skmsg, replace comments with BUILD bug'
for n in 1 2 3; do echo "/* $n */" >> drivers/scsi/isci/host.c; commit 2019-02-0${n}T12:00:00Z "isci: step $n" 'Dan Williams <dan@example.org>'; done
echo '/* . */' >> fs/namei.c; commit 2019-06-01T12:00:00Z 'namei: a dot'
"""


def test_binary_inspection_tools(agree):
    """A304: readelf, objdump, file, hexdump, ldd say what they say on Linux."""
    for tool, package in (("readelf", "binutils"), ("file", "file"), ("hexdump", "bsdextrautils")):
        need(tool, package)
    agree("readelf -hlS /bin/true; readelf -d /bin/true | head -5; file -b /bin/true /etc/passwd; objdump -d /bin/true | md5sum;"
          "hexdump -C /bin/true | head -5; objdump -t /bin/true | head -3; nm -D /bin/true | head -3; strings /bin/true | md5sum; size /bin/true")
    agree("ldd /bin/ls | sed 's/ (0x.*//'")            # where they lie is chance


def test_searching_a_source_tree(agree):
    """A305, B57, B74: ctags, cscope, ag and grep."""
    for tool, package in (("ctags", "universal-ctags"), ("cscope", "cscope"), ("ag", "silversearcher-ag")):
        need(tool, package)
    done = agree(TREE + """
        ag tasklet_init . </dev/null; ag tasklet_schedule . </dev/null | grep completion_tasklet; ag SYSCALL_DEFINE . </dev/null | grep rename,
        grep -rn do_renameat2 .; ctags -R . ; grep -v '^!' tags; cscope -bR; cscope -dL1 isci_intx_isr; cscope -dL3 do_renameat2""")
    assert b"drivers/scsi/isci/init.c:3:    tasklet_init(&ihost->completion_tasklet," in done.stdout


def test_an_editor(agree):
    """A305, B72: vim reads ~/.vimrc, follows a tag, and writes."""
    need("vim", "vim")
    agree(TREE + r"""ctags -R .; printf 'set tags=./tags\nset number\n' > vimrc
        vim -Es -u vimrc -c 'tag isci_host_alloc' -c 's/alloc/allocate/' -c 'set number?' -c 'wq' </dev/null; cat drivers/scsi/isci/init.c; ls -A""",
          env={"TERM": "dumb", "VIMRUNTIME": "/usr/share/vim/vim90"})


def test_a_history(agree):
    """A306, B15: the same commits, down to their names; log, shortlog, rev-list, blame, diff, fsck, gc."""
    need("git", "git")
    agree(HISTORY + """
        git shortlog -sn --no-merges HEAD | nl; git log --oneline --after=2018-01-01 --before=2018-12-31 -- drivers
        git log --format='%H %an %s'; git rev-list --count HEAD -- drivers; git diff --stat HEAD~2; git blame -s fs/namei.c | tail -2
        git remote -v; make -s kernelversion; git fsck 2>&1; git gc -q; git status --short; git checkout -q HEAD~1; git log -1 --format=%s""", env=GIT)


def test_which_part_changes_most(agree):
    """B67, B68: the script of the lab."""
    done = agree(HISTORY + (f"mkdir bin; cat > bin/git-files-commits <<'S'\n{(PROGRAMS / 'git-files-commits').read_text()}S\n"
                            "chmod +x bin/git-files-commits; PATH=$PWD/bin:$PATH; git files-commits 2019; git files-commits x; echo $?;"
                            "cd drivers; git files-commits 2019"), env=GIT)
    assert b"2019-01-01 ~ 2019-12-31:\n     1\t            drivers:     3\n" in done.stdout


@pytest.mark.patience(120)
def test_package_tools(boot):
    """A311: dpkg and apt-get answer from what is installed; pip lists. (Downloading needs the network.)"""
    done = boot().run(["/bin/bash", "-c", "dpkg -l bash | tail -1; dpkg -S /bin/bash; apt-cache policy bash | head -2; apt-get -s install bash | tail -1;"
                       "python3 -m pip --version; printf 'all:\\n\\techo made\\n' > /tmp/Makefile; make -sC /tmp"])
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("ii  bash ") and lines[1] == "bash: /bin/bash" and lines[3].startswith("  Installed: 5.")
    assert lines[4] == "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded." or " not upgraded." in lines[4]
    assert lines[5].startswith("pip ") and lines[-1] == "made", done


def test_sar(boot):
    """A121, B14: sar reads /proc/stat; a hog is %user, a reader that waits for a disk is %iowait."""
    need("sar", "sysstat")
    from glasskernel.machine.disk import Disk

    kernel = boot(disks=[Disk(size=256 << 20, model="hdd")])
    text = kernel.run(["/bin/bash", "-c", "sleep 1; sar 1 2; (while :; do :; done) & sar -P ALL 1 1; kill $!;"
                       "(while :; do dd if=/dev/sda of=/dev/null bs=4k count=50 skip=$((RANDOM)) iflag=direct 2>/dev/null; done) & sar 1 2; kill $!"],
                      env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}).stdout.decode()
    assert "     CPU     %user     %nice   %system   %iowait    %steal     %idle\n" in text
    idle, hog, waiting = text.split("Linux 5.3.0-glasskernel")[1:]

    def rows(part):
        return [[float(n) for n in line.split()[2:]] for line in part.splitlines() if line.startswith("Average:") and line.split()[1] != "CPU"]

    assert rows(idle)[0][5] > 99
    busy = rows(hog)
    assert 24 < busy[0][0] <= 25.5 and sum(row[0] > 95 for row in busy[1:]) == 1
    assert rows(waiting)[0][3] > 15                     # one of four CPUs waits
