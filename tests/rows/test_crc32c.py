"""lib/crc32c.py: the library and our own tables give the same, which RFC 3720 gives."""
import random

import pytest

from glasskernel.lib.crc32c import _native, crc32c, crc32c_by_tables

SUMS = [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)]


@pytest.mark.parametrize("function", [crc32c, crc32c_by_tables])
@pytest.mark.parametrize(("data", "expected"), SUMS)
def test_known_sums(function, data, expected):
    assert function(0xFFFFFFFF, data) ^ 0xFFFFFFFF == expected


def test_both_ways_agree():
    assert _native() is not None, "google-crc32c is a dependency"
    dice = random.Random(5)
    for size in (*range(9), 255, 1024, 4092):
        seed, data = dice.getrandbits(32), dice.randbytes(size)
        for kind in (bytes, bytearray, memoryview):
            assert crc32c(seed, kind(data)) == crc32c_by_tables(seed, kind(data))


def test_a_sum_goes_on():
    assert crc32c(crc32c(7, b"ab"), b"cde") == crc32c(7, b"abcde")
