"""Random system calls: errors, signals and nonsense are all fine, an oops is not."""
import pytest

from tests.conftest import PROGRAMS

CALLS = 3000


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_system_calls_hit_no_bug(seed, run_c):
    """oops=panic is on: a bug of ours raises RuntimeError here; the fixture then checks frames and address spaces."""
    result = run_c(PROGRAMS / "fuzz.c", str(seed), str(CALLS), cpus=1 + seed % 4, memory=128 << 20)
    assert result.status == 0 and result.stdout.endswith(b"alive\n")


def test_the_same_seed_makes_the_same_calls(run_c, boot, build_c):
    from glasskernel import Share

    counts = []
    binary = build_c(PROGRAMS / "fuzz.c")
    for seed in ("1", "1", "2"):
        kernel = boot(shares=[Share(str(binary.parent), "/programs")])
        kernel.run([f"/programs/{binary.name}", seed, "300"])
        counts.append((kernel.syscall_statistics(), kernel.now_ns))
    assert counts[0] == counts[1]
    assert counts[0] != counts[2]


def test_random_system_calls_of_an_ordinary_user(run_c):
    result = run_c(PROGRAMS / "fuzz.c", "77", str(CALLS), uid=1000, gid=1000, cwd="/tmp")
    assert result.status == 0 and result.stdout.endswith(b"alive\n")
