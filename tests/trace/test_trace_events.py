"""Declarations of events: layout, format files, the print fmt."""

import pathlib
import re

import pytest

from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.trace.events.ftrace import ftrace
from glasskernel.kernel.trace.print_fmt import compile_print_fmt
from glasskernel.kernel.trace.trace_events import trace_system

DATA = pathlib.Path(__file__).parents[1] / "data" / "trace"


def declare(fields, print_fmt, **more):
    """An event that is assigned its arguments."""
    return trace_system("test").event(fields=fields, print_fmt=print_fmt, name="thing", **more)(lambda *values: values)


def text_of(fields, print_fmt, *values, **more):
    call = declare(fields, print_fmt, **more)
    return call.print(None, call.pack(values))


@pytest.mark.parametrize("call", ftrace.calls, ids=lambda call: call.name)
def test_ftraces_own_entries_have_linuxs_formats(call):
    captured = (DATA / "ftrace-internal.txt").read_text().split(f"/format\nname: {call.name}\n")[1]
    assert call.format_text() == f"name: {call.name}\n" + captured.partition("###")[0]


def test_numbers_of_events_are_unique():
    ids = [call.id for call in event_calls()]
    assert len(set(ids)) == len(ids) and all(0 < number < 1 << 16 for number in ids)


def test_fields_are_laid_out_as_c_does():
    call = declare("char a; int b; u8 c[3]; unsigned long d; __data_loc char[] e; dev_t f", '"x"')
    assert [(f.name, f.offset, f.size, f.is_signed) for f in call.fields] == [
        ("a", 8, 1, True), ("b", 12, 4, True), ("c", 16, 3, False), ("d", 24, 8, False), ("e", 32, 4, True), ("f", 36, 4, False)]


def test_what_is_packed_is_unpacked():
    call = declare("char comm[16]; pid_t pid; u8 raw[2]; unsigned long args[2]; __data_loc char[] name; __data_loc u8[] blob; s64 last",
                   '"x"')
    values = (b"bash", -5, (1, 255), (1 << 63, 7), b"/etc/passwd", b"\1\2\3", -1)
    assert call.unpack(call.pack(values)) == {
        "comm": b"bash", "pid": -5, "raw": b"\1\xff", "args": (1 << 63, 7), "name": b"/etc/passwd", "blob": b"\1\2\3", "last": -1}


def test_numbers_are_cut_to_their_type():
    call = declare("u32 a; int b; u64 c", '"x"')
    assert call.unpack(call.pack((-1, 0xFFFFFFFE, -2))) == {"a": 0xFFFFFFFF, "b": -2, "c": (1 << 64) - 2}


@pytest.mark.parametrize(("print_fmt", "value", "text"), [
    ('"%d", REC->x', -3, "-3"),
    ('"%u %x", REC->x, REC->x', -1, "4294967295 ffffffff"),
    ('"%lu", REC->x', 7, "7"),
    ('"%#x|%08x|%-4d|%4d|%03d", REC->x, REC->x, REC->x, REC->x, REC->x', 10, "0xa|0000000a|10  |  10|010"),
    ('"%s", REC->x ? "yes" : "no"', 0, "no"),
    ('"%s", REC->x == 1 || REC->x > 4 ? "in" : "out"', 5, "in"),
    ('"%d", (REC->x >> 1) & 0x3 | 1 << 4', 7, "19"),
    ('"%d", -REC->x + ~0', 7, "-8"),
    ('"%d", (u8)REC->x', 257, "1"),
    ('"%d", (int)(s8)REC->x', 255, "-1"),
    ('"%d", REC->x / 2 * sizeof(u64)', -7, "-24"),
    ('"100%% %c", REC->x', 65, "100% A"),
    ('"%s", __print_flags(REC->x, "|", { 1, "A" }, { 2, "B" }, { 4, "C" })', 5, "A|C"),
    ('"%s", __print_flags(REC->x, "|", { 1, "A" })', 9, "A|0x8"),
    ('"%s", __print_symbolic(REC->x, { 1, "one" }, { 2, "two" })', 2, "two"),
    ('"%s", __print_symbolic(REC->x, { 1, "one" })', 3, "0x3"),
    ('"a" "b\\t%d\\n", REC->x', 1, "ab\t1\n"),
])
def test_print_fmt(print_fmt, value, text):
    assert text_of("long long x", print_fmt, value) == text


def test_print_fmt_of_strings_and_arrays():
    assert text_of("__data_loc char[] s", '"<%s>", __get_str(s)', b"abc") == "<abc>"
    assert text_of("u8 b[3]", '"%s %d", __print_hex(REC->b, 3), REC->b[1]', (1, 2, 255)) == "01 02 ff 2"
    assert text_of("u32 b[2]", '"%s", __print_array(REC->b, 2, sizeof(u32))', (1, 255)) == "{0x1,0xff}"
    assert text_of("__data_loc u8[] b", '"%d %*ph", __get_dynamic_array_len(b), 2, __get_dynamic_array(b)', b"\1\2") == "2 01 02"
    assert text_of("__u8 a[4]", '"%pI4", REC->a', (127, 0, 0, 1)) == "127.0.0.1"


def test_pointers_are_hashed_and_symbols_named():
    text = text_of("void * p", '"%p %p", REC->p, REC->p', 0xFFFF888012345678)
    assert re.fullmatch(r"00000000[0-9a-f]{8} 00000000[0-9a-f]{8}", text) and len(set(text.split())) == 1
    from glasskernel.kernel.kallsyms import kallsyms_lookup_name

    address = kallsyms_lookup_name(None, "vfs_read")
    text = text_of("unsigned long ip", '"%ps %pS", (void *)REC->ip, (void *)REC->ip', address + 16)
    assert re.fullmatch(r"vfs_read vfs_read\+0x10/0x[0-9a-f]+", text)


def test_helpers_and_names_come_from_the_declaration():
    assert text_of("int x", '"%s %d", show_it(REC->x), LIMIT', 4, helpers={"show_it": lambda x: f"<{x}>", "LIMIT": 9}) == "<4> 9"


@pytest.mark.parametrize("print_fmt", ['"%d", nowhere(REC->x)', '"%d", REC->x +', '"%d" REC->x', '"%d", FOO'])
def test_c_that_is_not_understood_is_an_error(print_fmt):
    with pytest.raises(ValueError, match="print fmt"):
        compile_print_fmt(print_fmt, {})


def test_every_declared_print_fmt_compiles():
    for call in event_calls():
        compile_print_fmt(call.print_fmt, call.helpers)
