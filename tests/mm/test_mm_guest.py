"""The memory map as programs see it: random calls against a table, on the host and inside."""
import pathlib
import subprocess

import pytest

STRESS = pathlib.Path(__file__).resolve().parent / "mm_stress.c"


def test_the_stress_program_is_right_about_linux(build_c, tmp_path):
    done = subprocess.run([build_c(STRESS), "1", "2000"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_random_calls_agree_with_the_table(run_c, seed):
    done = run_c(STRESS, seed, "1500")
    assert done.status == 0, done.stdout.decode() + done.stderr.decode()


def test_dirty_shared_pages_reach_a_shared_directory(boot, build_c, tmp_path):
    """msync(2) at once; without it, at the latest when the last user of the file is gone."""
    from glasskernel import Share

    source = """
    #include "check.h"
    int main(int argc, char **argv)
    {
        int fd = open(argv[1], O_RDWR);
        char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        memcpy(p + 4090, "written", 7);
        return argc > 2 ? msync(p, 8192, MS_SYNC) : 0;
    }"""
    program = build_c(source)
    for extra in ([], ["sync"]):
        data = tmp_path / "data"
        data.write_bytes(bytes(8192))
        shares = [Share(str(tmp_path), "/share", writable=True), Share(str(program.parent), "/programs")]
        done = boot(shares=shares).run([f"/programs/{program.name}", "/share/data", *extra])
        assert (done.status, data.read_bytes()[4090:4097]) == (0, b"written")


def test_reclaim_of_page_cache_lets_a_small_machine_read_a_large_file(boot, tmp_path):
    """64 MB of memory, a file of 100 MB: clean pages are given back, nothing fails."""
    from glasskernel import Share

    with (tmp_path / "large").open("wb") as file:
        for i in range(1600):
            file.write(i.to_bytes(4, "little") * 16384)
    kernel = boot(memory=64 << 20, shares=[Share(str(tmp_path), "/share")])
    done = kernel.run(["/bin/sh", "-c", "cat /share/large | sha1sum"])
    want = subprocess.run(["sha1sum", tmp_path / "large"], capture_output=True, text=True).stdout.split()[0]
    assert done.stdout.decode().split()[0] == want, done.stderr.decode()
