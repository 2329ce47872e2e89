"""A file and its model: random reads, writes, mappings, truncations, fallocate in all modes, O_DIRECT, asynchronous I/O."""
import pytest

from tests.conftest import PROGRAMS


@pytest.mark.patience(120)
@pytest.mark.parametrize(("options", "mount", "operations"), [
    ("-t ext4 -b 1024", "", "dfm"), ("-t ext4 -b 4096", "nodelalloc", "dfm"), ("-t ext4 -b 1024", "data=journal", "dfm"),
    ("-t ext4 -b 4096", "dioread_nolock", "dfm"), ("-t ext4 -b 4096 -O ^has_journal", "", "dfm"),
    ("-t ext3 -b 1024", "", "dm"), ("-t ext2 -b 4096", "", "dm")])
def test_a_file_is_what_was_done_to_it(build_c, ext4, options, mount, operations):
    """Several files at once, then one after the other; e2fsck is content."""
    program = build_c(PROGRAMS / "fsx.c").name
    fs = ext4(options, size="32M", model="ssd", mount=mount)
    fs.sh(f"cd /mnt; for s in 11 12 13; do /programs/{program} f$s $s 300 {operations} > /tmp/$s & done; wait; "
          f"test ! -s /tmp/11 -a ! -s /tmp/12 -a ! -s /tmp/13 || {{ cat /tmp/1[123]; exit 1; }}")
    fs.sh(f"cd /mnt; for s in 12 14; do /programs/{program} f $s 300 {operations} || exit; done")
    fs.done()


def test_the_model_is_linux(build_c, host):
    """The same program on the host."""
    program = build_c(PROGRAMS / "fsx.c")
    result = host(f"for s in 1 2 3; do {program} file $s 1000 m || exit; done")
    assert result.status == 0, result.stdout
