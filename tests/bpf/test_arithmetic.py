"""BPF's arithmetic and comparisons against those of gcc: random programs, computed both ways."""
from __future__ import annotations

import random

import pytest

OPS = {"ADD": "+", "SUB": "-", "MUL": "*", "DIV": "/", "OR": "|", "AND": "&", "LSH": "<<", "RSH": ">>", "MOD": "%",
       "XOR": "^", "ARSH": ">>"}
COMPARES = {"JEQ": "==", "JNE": "!=", "JGT": ">", "JGE": ">=", "JLT": "<", "JLE": "<=", "JSGT": ">", "JSGE": ">=",
            "JSLT": "<", "JSLE": "<=", "JSET": "&"}
EDGES = (0, 1, 2, 31, 32, 63, -1, -2, 0x7FFFFFFF, -0x80000000, 255, 0x12345678)


def in_c(name, a, b, wide):
    """The same operation in C. a, b: expressions."""
    unsigned, signed, bits = ("uint64_t", "int64_t", 63) if wide else ("uint32_t", "int32_t", 31)
    x, y = f"({unsigned})({a})", f"({unsigned})({b})"
    if name in ("DIV", "MOD"):
        return f"({y} ? {x} {OPS[name]} {y} : {'0' if name == 'DIV' else x})"
    if name in ("LSH", "RSH"):
        return f"({unsigned})({x} {OPS[name]} ({y} & {bits}))"
    if name == "ARSH":
        return f"({unsigned})(({signed}){x} >> ({y} & {bits}))"
    if name == "MOV":
        return y
    return f"({unsigned})({x} {OPS[name]} {y})"


def program(rng):
    """(instructions, the same in C)"""
    code, c = [], []
    for reg in range(4):
        value = rng.choice([*(edge & (1 << 64) - 1 for edge in EDGES), rng.getrandbits(64), rng.getrandbits(33)])
        code.append(f"LD64({reg},{value:#x}ull)")
        c.append(f"uint64_t r{reg} = {value:#x}ull;")
    for _ in range(rng.randint(4, 20)):
        dst, src, wide = rng.randrange(4), rng.randrange(4), rng.random() < 0.5
        kind = rng.random()
        if kind < 0.1:
            code.append(f"I({'0x87' if wide else '0x84'},{dst},0,0,0)")
            c.append(f"r{dst} = {'-r' if wide else '(uint32_t)-r'}{dst};")
        elif kind < 0.2:
            width, swap = rng.choice((16, 32, 64)), rng.random() < 0.5
            code.append(f"I({'0xdc' if swap else '0xd4'},{dst},0,0,{width})")
            value = f"(uint{width}_t)r{dst}"
            c.append(f"r{dst} = {f'__builtin_bswap{width}({value})' if swap else value};")
        elif kind < 0.4:
            name, imm, small = rng.choice(list(COMPARES)), rng.choice(EDGES), rng.random() < 0.5
            sign = "" if name.startswith("JS") and name != "JSET" else "u"
            cast = f"({sign}int{32 if small else 64}_t)"
            by_reg = rng.random() < 0.5
            code.append(f"I({'0x06' if small else '0x05'} | BPF_{name} | {'BPF_X' if by_reg else 'BPF_K'},{dst},"
                        f"{src if by_reg else 0},1,{0 if by_reg else imm})")
            code.append(f"ALU(BPF_XOR,{dst},0x5a5a)")
            other = f"r{src}" if by_reg else f"(int64_t){imm}"
            c.append(f"if (!({cast}r{dst} {COMPARES[name]} {cast}{other})) r{dst} ^= 0x5a5a;")
        else:
            name = rng.choice([*OPS, "MOV"])
            by_reg = rng.random() < 0.5
            imm = rng.choice(EDGES)
            if name in ("LSH", "RSH", "ARSH"):
                imm &= 63 if wide else 31
            if name in ("DIV", "MOD"):
                imm = imm or 3
            code.append(f"I({'BPF_ALU64' if wide else 'BPF_ALU'} | {f'BPF_{name}'} | {'BPF_X' if by_reg else 'BPF_K'},"
                        f"{dst},{src if by_reg else 0},0,{0 if by_reg else imm})")
            other = f"r{src}" if by_reg else f"(int64_t){imm}"
            c.append(f"r{dst} = {in_c(name, f'r{dst}', other, wide)};")
    for reg in range(1, 4):
        code.append(f"ALUR(BPF_ADD,0,{reg})")
        c.append(f"r0 += r{reg};")
    code += ["MOVR(1,0)", "ALU(BPF_RSH,1,32)", "ALUR(BPF_XOR,0,1)", "EXIT()"]
    c.append("r0 ^= r0 >> 32;")
    return ", ".join(code), " ".join(c)


@pytest.mark.patience(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_programs_agree_with_c(bpf_c, seed):
    rng = random.Random(seed)
    functions, body = [], []
    for number in range(60):
        code, c = program(rng)
        functions.append(f"static uint32_t c{number}(void) {{ {c} return r0; }}\n"
                         f"static long long b{number}(void) {{ return RUN({code}); }}")
        body.append(f'if (b{number}() != c{number}()) printf("{number}: %llx %x\\n%s\\n", b{number}(), c{number}(), text);')
    result = bpf_c("log_level = 0;\n" + "\n".join(body), "\n".join(functions))
    assert result.status == 0
    assert result.stdout == b"", result.stdout.decode()[:2000]
