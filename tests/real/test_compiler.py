"""gcc, as, ld, readelf, objdump: compiling inside the kernel."""
import re

from tests.conftest import need

HELLO = """#include <stdio.h>
int main(int argc, char **argv) { printf("hello, world %d\\n", argc); return 3; }
"""


def test_gcc_compiles_and_links_hello_and_it_runs(agree):
    need("gcc", "gcc libc6-dev")
    agree("printf %s \"$C\" >hello.c; gcc -O1 -o hello hello.c && ./hello a b; echo $?; sha256sum hello", env={"C": HELLO})


def test_the_compiler_explains_an_error(agree):
    need("gcc", "gcc libc6-dev")
    agree("echo 'int main(void) { return x; }' >bad.c; gcc bad.c; echo $?; gcc nosuch.c; echo $?; ls")


def test_separate_compilation_a_library_and_make(agree):
    need("make", "make")
    agree("""
        echo 'int twice(int x) { return 2 * x; }' >t.c
        printf '#include <stdio.h>\\nint twice(int); int main(void) { printf("%%d\\\\n", twice(21)); }\\n' >m.c
        printf 'prog: m.o libt.a\\n\\tgcc -o prog m.o -L. -lt\\nlibt.a: t.o\\n\\tar rcs libt.a t.o\\n' >Makefile
        make -s 2>&1; ./prog; gcc -shared -fPIC -o libt.so t.c && gcc -o dyn m.c -L. -lt -Wl,-rpath,$PWD && ./dyn; nm libt.a""")


def test_elf_tools_read_what_gcc_made(agree):
    """B69, B75: file, readelf -h, readelf -l, objdump -d."""
    need("file", "file")
    agree("""printf %s "$C" >h.c; gcc -o a.out h.c; file a.out; readelf -h a.out; readelf -lW a.out; objdump -d a.out | grep -A3 '<main>:'
        hexdump a.out | head -2; strip a.out && ./a.out; size a.out; readelf -n a.out | grep Build; strings a.out | grep hello""", env={"C": HELLO})


def test_ldd_lists_libraries_with_their_addresses(run):
    """A044: name => path (address)."""
    lines = run("ldd /bin/mv").stdout.decode().splitlines()
    assert re.fullmatch(r"\tlinux-vdso\.so\.1 \(0x[0-9a-f]{16}\)", lines[0])
    assert any(re.fullmatch(r"\tlibc\.so\.6 => /lib/x86_64-linux-gnu/libc\.so\.6 \(0x[0-9a-f]{16}\)", line) for line in lines)
