"""fs/seq_file.py: reads of any size, from any position, give the same text."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasskernel.fs.seq_file import (
    SEQ_SKIP,
    SeqOperations,
    mangle_path,
    seq_lseek,
    seq_open,
    seq_pad,
    seq_put_hex_ll,
    seq_read,
    single_open,
)
from glasskernel.fs.types import Kiocb
from glasskernel.lib.errno import KernelError
from glasskernel.mm.iov_iter import KernelIter


def records(texts):
    """A file with one record a text; None is a record that is left out."""

    def show(m, v):
        m.buf += b"never seen" if texts[v - 1] is None else texts[v - 1]
        return SEQ_SKIP if texts[v - 1] is None else None

    def start(m):
        return m.index + 1 if m.index < len(texts) else None

    def following(m, v):
        m.index += 1
        return start(m)

    file = SimpleNamespace(f_mode=3, f_pos=0)
    seq_open(file, SeqOperations(start, following, show))
    return file


def read(file, size, pos=None):
    iocb = Kiocb(file, file.f_pos if pos is None else pos)
    buffer = bytearray(size)
    done = seq_read(iocb, KernelIter(buffer))
    if pos is None:
        file.f_pos = iocb.ki_pos
    return bytes(buffer[:done])


def read_all(file, size):
    parts = []
    while part := read(file, size):
        parts.append(part)
    return b"".join(parts)


TEXTS = st.lists(st.one_of(st.none(), st.just(b""), st.binary(min_size=1, max_size=6000)), max_size=6)


@given(TEXTS, st.integers(1, 9000))
def test_reads_of_any_size_return_the_whole_content(texts, size):
    assert read_all(records(texts), size) == b"".join(t or b"" for t in texts)


@given(TEXTS, st.integers(0, 12000), st.integers(1, 500))
def test_a_read_at_any_position_returns_what_is_there(texts, pos, size):
    whole = b"".join(t or b"" for t in texts)
    got = read(records(texts), size, pos)
    assert whole[pos : pos + size].startswith(got)
    assert got or pos >= len(whole)


def test_a_read_returns_whole_records_as_long_as_they_fit():
    """cat of a long list: each read(2) ends at the end of a record."""
    file = records([b"x" * 1000 + b"\n"] * 10)
    assert len(read(file, 131072)) == 4 * 1001


def test_a_record_longer_than_a_page_comes_in_one_read():
    assert len(read(records([b"y" * 10000]), 131072)) == 10000


def test_lseek_to_the_start_shows_again():
    shown = []
    file = SimpleNamespace(f_mode=3, f_pos=0)

    def show(m, v):
        shown.append(m.private)
        m.buf += b"text%d\n" % len(shown)

    single_open(file, show, "data")
    assert read_all(file, 3) == b"text1\n"
    assert seq_lseek(file, 0, 0) == 0
    assert read_all(file, 100) == b"text2\n"
    assert shown == ["data", "data"]
    with pytest.raises(KernelError):
        seq_lseek(file, 0, 2)
    with pytest.raises(KernelError):
        seq_lseek(file, -1, 0)


def test_an_error_in_show_reaches_the_reader():
    file = SimpleNamespace(f_mode=3, f_pos=0)

    def show(m, v):
        raise KernelError(3)

    single_open(file, show, None)
    with pytest.raises(KernelError) as e:
        read(file, 10)
    assert e.value.errno == 3


def test_columns_and_escapes():
    m = SimpleNamespace(buf=bytearray(b"ab"))
    seq_put_hex_ll(m, b"-", 0x1F, 8)
    assert m.buf == b"ab-0000001f"
    seq_pad(m, b"|", 2, 12)
    assert m.buf == b"ab-0000001f   |"
    assert mangle_path(b"a b\tc\\d", b" \t\n\\") == rb"a\040b\011c\134d"
