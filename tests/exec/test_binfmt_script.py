"""The first line of a script, as 5.3 reads it from 256 bytes."""
import pytest

from glasskernel.fs.binfmt_script import parse_line
from glasskernel.lib.errno import ENOEXEC, KernelError

SIZE = 256


@pytest.mark.parametrize(("line", "want"), [
    (b"#!/bin/sh\n", (b"/bin/sh", None)),
    (b"#! \t /bin/sh \t -x y \t\n rest", (b"/bin/sh", b"-x y")),
    (b"#!/bin/sh", (b"/bin/sh", None)),                       # the file ends here
    (b"#!/bin/sh -e\0junk\n", (b"/bin/sh", b"-e")),
    (b"#!" + b"i" * 252 + b"\n", (b"i" * 252, None)),
    (b"#!" + b"i" * 253 + b"\n", (b"i" * 253, None)),
    (b"#!" + b"i" * 200 + b" " + b"a" * 300, (b"i" * 200, b"a" * 52)),
])
def test_interpreter_and_argument(line, want):
    assert parse_line(line[:SIZE].ljust(SIZE, b"\0")) == want


@pytest.mark.parametrize("line", [
    b"#!", b"#!\n/bin/sh", b"#!  \t \n", b"#!" + b" " * 300, b"#!" + b"i" * 254 + b"\n", b"#!" + b"i" * 300,
])
def test_a_line_without_a_whole_name_is_no_script(line):
    with pytest.raises(KernelError) as caught:
        parse_line(line[:SIZE].ljust(SIZE, b"\0"))
    assert caught.value.errno == ENOEXEC
