"""The line discipline, compared with the host's own: same keys, same settings, same screen, same lines."""

import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glasskernel.drivers.tty.types import (
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INIT_C_CC,
    INLCR,
    ISIG,
    ISTRIP,
    IUCLC,
    IUTF8,
    IXANY,
    IXON,
    NOFLSH,
    OCRNL,
    OLCUC,
    ONLCR,
    ONLRET,
    ONOCR,
    OPOST,
    PARMRK,
    VEOL,
    VEOL2,
    VMIN,
    XTABS,
)
from tests.tty.oracle import HostTty, OurTty

COOKED_IFLAG = ICRNL | IXON
COOKED_OFLAG = OPOST | ONLCR
COOKED_LFLAG = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN


def cc(**changes):
    values = bytearray(INIT_C_CC[:17])
    for name, value in changes.items():
        values[{"eol": VEOL, "eol2": VEOL2, "min": VMIN}[name]] = value
    return bytes(values)


def cooked(iflag=COOKED_IFLAG, oflag=COOKED_OFLAG, lflag=COOKED_LFLAG, chars=None):
    return OurTty(iflag, oflag, lflag, cc() if chars is None else chars)


@pytest.mark.parametrize(
    ("keys", "screen", "line"),
    [
        (b"ab\x7fc\n", b"ab\b \bc\r\n", b"ac\n"),
        (b"one two\x17three\r", b"one two\b \b\b \b\b \bthree\r\n", b"one three\n"),
        (b"xy\x15z\n", b"xy\b \b\b \bz\r\n", b"z\n"),
        (b"a\x01\x7fb\n", b"a^A\b \b\b \bb\r\n", b"ab\n"),
        (b"\x16\x03\n", b"^\b^C\r\n", b"\x03\n"),
        (b"re\x12do\n", b"re^R\r\nredo\r\n", b"redo\n"),
        (b"ab\x04", b"ab", b"ab"),
        (b"\x04", b"", b""),
    ],
)
def test_line_editing(keys, screen, line):
    """termios(3): ERASE, WERASE, KILL, LNEXT, REPRINT, EOF in canonical mode."""
    tty = cooked()
    tty.type(keys)
    assert (tty.screen(), tty.read()) == (screen, line)


def test_a_signal_character_is_echoed_and_forgets_the_line():
    """termios(3): INTR flushes input unless NOFLSH is set."""
    tty = cooked()
    tty.type(b"typed\x03new\n")
    assert tty.screen() == b"^Cnew\r\n"
    assert tty.read() == b"new\n"


def test_noflsh_keeps_the_line():
    tty = cooked(lflag=COOKED_LFLAG | NOFLSH)
    tty.type(b"typed\x03new\n")
    assert tty.read() == b"typednew\n"


def test_a_line_longer_than_the_buffer_keeps_its_first_4095_bytes():
    """termios(3): the maximum line length is 4096 including the newline; excess is discarded."""
    tty = cooked(lflag=ICANON)
    tty.type(b"x" * 5000 + b"\n")
    assert tty.read(8192) == b"x" * 4095 + b"\n"


def test_stop_holds_output_back_and_start_lets_it_go():
    tty = cooked()
    tty.type(b"\x13")
    assert tty.tty.stopped
    tty.type(b"\x11")
    assert not tty.tty.stopped


def test_a_short_read_takes_the_line_in_pieces():
    tty = cooked()
    tty.type(b"abcdef\nnext\n")
    assert [tty.read(4) for _ in range(4)] == [b"abcd", b"ef\n", b"next", b"\n"]


def test_an_eof_after_exactly_the_bytes_read_is_no_second_end():
    tty = cooked()
    tty.type(b"abc\x04rest\n")
    assert [tty.read(3), tty.read(10)] == [b"abc", b"rest\n"]


def test_fionread_counts_whole_lines_without_their_eof():
    """tty_ioctl(4): FIONREAD."""
    tty = cooked()
    tty.type(b"one\ntwo\x04three")
    assert tty.available() == 7


def test_switching_to_raw_gives_the_unfinished_line():
    """termios(3): in noncanonical mode input is available immediately."""
    from glasskernel.drivers.tty import n_tty

    tty = cooked()
    tty.type(b"half")
    assert tty.read() is None
    old = tty.tty.termios
    tty.tty.termios = old.copy()
    tty.tty.termios.c_lflag &= ~ICANON
    n_tty.n_tty_set_termios(tty.tty, old)
    assert tty.read() == b"half"


# ---- the host as oracle -----------------------------------------------------------------------------------------
keys = st.binary(max_size=60) | st.lists(
    st.sampled_from([
        b"a", b"B", b"foo", b"under_score", b" ", b"\t", b"\n", b"\r", b"\x7f", b"\x7f", b"\x17", b"\x15", b"\x04",
        b"\x16", b"\x12", b"\x03", b"\x1c", b"\x1a", b"\x13", b"\x11", b"\x00", b"\x01", b"\x1b[A", b"\xff",
        "é".encode(), "漢字".encode(), b"\xc3", b"\x80", b"!", b";",
    ]),
    max_size=40,
).map(b"".join)


def flags(*bits):
    return st.lists(st.sampled_from(bits), unique=True).map(sum)


lflags = flags(ICANON, ECHO, ECHOE, ECHOK, ECHOKE, ECHOCTL, ECHONL, ECHOPRT, ISIG, IEXTEN, NOFLSH)
iflags = flags(ICRNL, INLCR, IGNCR, ISTRIP, IUCLC, IXON, IXANY, IUTF8, PARMRK)
oflags = flags(OPOST, ONLCR, OCRNL, ONOCR, ONLRET, OLCUC, XTABS)


def drive(tty, steps):
    """What a user at this terminal and the program behind it see, step by step."""
    seen = []
    canonical = True
    for typed, size, printed in steps:
        tty.type(typed)
        lines = []
        while (line := tty.read(size)) is not None:
            lines.append(line)
            if line == b"" and len(lines) > 200:
                canonical = False
                break
        seen.append((lines, tty.screen()))
        if printed and not typed.count(b"\x13"):
            tty.write(printed)
            seen.append(tty.screen())
    assert canonical
    return seen


def compare(iflag, oflag, lflag, chars, steps):
    if not lflag & ICANON:
        steps = [(typed, 4096, printed) for typed, _, printed in steps]
    if iflag & IXON:
        # A stopped terminal blocks write(2). A signal forgets output that the host may or may not have delivered.
        flow = any(c & 0x7F in (0x13, 0x11) for typed, _, _ in steps for c in typed)
        signals = b"\x03\x1c\x1a\x83\x9c\x9a" if flow else b""
        steps = [(typed.translate(None, signals), size, b"") for typed, size, _ in steps]
    results = []
    for kind in (HostTty, OurTty):
        tty = kind(iflag, oflag, lflag, chars)
        try:
            results.append(drive(tty, steps))
        finally:
            tty.close()
    assert results[0] == results[1]


steps = st.lists(st.tuples(keys, st.sampled_from([1, 3, 7, 4096]), keys), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_cooked_mode_is_the_hosts(steps):
    compare(COOKED_IFLAG, COOKED_OFLAG, COOKED_LFLAG, cc(), steps)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.just(COOKED_IFLAG) | iflags,
    st.just(COOKED_OFLAG) | oflags,
    st.just(COOKED_LFLAG) | lflags,
    st.sampled_from([cc(), cc(eol=ord(";")), cc(eol2=ord("!")), cc(eol=ord(";"), eol2=ord("a"))]),
    steps,
)
def test_every_mode_is_the_hosts(iflag, oflag, lflag, chars, steps):
    compare(iflag, oflag, lflag, chars, steps)


def test_output_in_many_lines_is_the_hosts():
    text = b"".join(b"%d\t%s\n" % (i, string.ascii_letters.encode()[: i % 50]) for i in range(60)) + b"\ttail"
    for oflag in (COOKED_OFLAG, COOKED_OFLAG | XTABS, OPOST | ONLRET, 0):
        screens = []
        for kind in (HostTty, OurTty):
            tty = kind(COOKED_IFLAG, oflag, COOKED_LFLAG, cc())
            tty.write(text)
            tty.type(b"\tx\x7f\x7f")                           # the erased tab tells which column they think it is
            while tty.read() is not None:
                pass
            screens.append(tty.screen())
            tty.close()
        assert screens[0] == screens[1]
