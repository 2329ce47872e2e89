"""Labs of seed 003 about files and disks (B84, B88, B90): the commands as written there, in /root on /dev/sda2."""
import re

import pytest


@pytest.fixture
def lab(boot):
    """sh(script): bash in /root of the default machine, as root."""
    kernel = boot(home=True)

    def sh(script):
        result = kernel.run(["/bin/bash", "-c", script])
        assert result.status == 0, (script, result)
        return result.stdout.decode()

    return sh


def test_lab_b84_meminfo_and_inode(lab):
    out = lab("cat /proc/meminfo | head -5; printf '%57s' x > hello.c; chmod 664 hello.c; stat hello.c; ls -i hello.c")
    assert [line.split(":")[0] for line in out.splitlines()[:5]] == ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached"]
    assert int(re.search(r"Buffers: +(\d+) kB", out).group(1)) > 0
    assert re.search(r"^  Size: 57 +\tBlocks: 8 +IO Block: 4096   regular file$", out, re.MULTILINE)
    ino = re.search(r"Device: (?:8,2|802h/2050d)\tInode: (\d+) +Links: 1$", out, re.MULTILINE).group(1)
    assert out.endswith(f"{ino} hello.c\n") and "Access: (0664/-rw-rw-r--)" in out
    assert all(re.search(rf"^{name}: 2019-09-15 20:00:\d\d", out, re.MULTILINE) for name in ("Access", "Modify", "Change"))


def test_lab_b88_drop_caches_by_hand(lab):
    """Without the blank, `echo 3>` redirects descriptor 3: an empty line, and the caches stay."""
    out = lab("head -c 16M /dev/urandom > big; sync; cat big > /dev/null; free; echo 3> /proc/sys/vm/drop_caches; free; "
              "echo 3 > /proc/sys/vm/drop_caches; free")
    full, kept, dropped = (int(line.split()[5]) for line in out.splitlines() if line.startswith("Mem:"))
    assert kept >= full - 64 and full - dropped >= 16 << 10


def test_lab_b90_df_of_the_disk(lab):
    out = lab("df -Th").splitlines()
    assert out[0].split() == ["Filesystem", "Type", "Size", "Used", "Avail", "Use%", "Mounted", "on"]
    assert any(re.fullmatch(r"/dev/sda2 +ext4 +990M +\S+ +923M +1% /root", line) for line in out)
