"""The engine, with hand-made page tables: vectors, error codes, the block counter, stale code."""
import mmap

import pytest

from glasskernel.machine import cpu
from glasskernel.machine.cpu import VECTOR_BUDGET, VECTOR_SYSCALL, Engine

CODE = 0x400000
TABLES, FRAME = 0x100000, 0x200000


class Bench:
    """One page of user code at CODE, in a machine of its own."""

    def __init__(self, native=True):
        self.ram = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.engine = Engine(self.ram, 16 << 20)
        words = self.engine.ram64
        for level in range(3):
            words[(TABLES + level * 4096 >> 3) + (2 if level == 2 else 0)] = TABLES + (level + 1) * 4096 | 7
        words[TABLES + 3 * 4096 >> 3] = FRAME | 7

    def context(self, code):
        raw = bytes.fromhex(code)
        self.ram[FRAME : FRAME + len(raw)] = raw
        self.engine.forget_code(FRAME >> 12)
        context = self.engine.new_context()
        context.set_page_table(TABLES)
        context.regs[16] = CODE
        self.engine.flush_tlb()
        return context


@pytest.fixture(params=["native", "portable"])
def bench(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.setattr(cpu, "_host", lambda: "aarch64")
    return Bench()


@pytest.mark.parametrize(
    ("code", "vector", "offset"),
    [("0f05", VECTOR_SYSCALL, 2), ("cc", 3, 1), ("0f0b", 6, 0), ("31c9f7f1", 0, 2), ("f4", 13, 0), ("0f31", 13, 0),
     ("cd80", 0x80, 2), ("0f22d8", 13, 0), ("e460cc", 13, 0), ("e660cc", 13, 0), ("edcc", 13, 0)],
)
def test_each_trap_has_its_vector_and_its_address(bench, code, vector, offset):
    context = bench.context(code)
    assert bench.engine.run(context, 1000) == vector
    assert context.regs[16] == CODE + offset


@pytest.mark.parametrize(
    ("code", "error", "address"),
    [("488b042500005000", 4, 0x500000), ("4889042500005000", 6, 0x500000), ("b800006000ffe0", 0x14, 0x600000)],
)
def test_page_faults_carry_address_and_error_code(bench, code, error, address):
    context = bench.context(code)
    assert bench.engine.run(context, 1000) == 14
    assert (context.error_code, context.fault_address) == (error, address)
    context.clear_exception()
    assert bench.engine.run(context, 1000) == 14        # the same fault again, not a double fault


def test_the_clock_counts_the_same_blocks_however_they_are_sliced(bench):
    """20,000 turns of a loop, then SYSCALL; the sum is right and the count of blocks the same."""
    code = "b9204e0000" "4801d8" "ffc9" "75f9" "0f05"
    totals = []
    for budget in (10**9, 1000, 7):
        context = bench.context(code)
        context.regs[3] = 3
        used = 0
        while True:
            vector = bench.engine.run(context, budget)
            used += budget - bench.engine.blocks_left()
            if vector == VECTOR_SYSCALL:
                break
            assert vector == VECTOR_BUDGET
        totals.append((used, context.regs[0]))
    assert {total for _, total in totals} == {60_000}
    assert len({used for used, _ in totals}) == 1


def test_native_and_portable_hooks_count_alike(monkeypatch):
    counts = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(cpu, "_host", lambda machine=machine: machine)
        bench = Bench()
        context = bench.context("b9204e0000" "ffc9" "75fc" "0f05")
        bench.engine.run(context, 10**6)
        counts.append(bench.engine.blocks_left())
    assert counts[0] == counts[1]


def test_watched_blocks_are_told_and_cost_no_block(bench):
    """A loop that calls a function five times: call +9; dec ecx; jnz; syscall ... ret"""
    code = "b905000000" "e80c000000" "ffc9" "75f7" "0f05" + "90" * 6 + "c3"
    entry, after = CODE + 0x16, CODE + 10
    plain = bench.context(code)
    plain.regs[4] = CODE + 0x800
    assert bench.engine.run(plain, 1000) == VECTOR_SYSCALL
    left = bench.engine.blocks_left()
    seen = []
    context = bench.context(code)
    bench.engine.watch_blocks(lambda address: seen.append((address, bench.engine.register(cpu.X.UC_X86_REG_RCX))))
    bench.engine.watch(entry)
    bench.engine.watch(after)
    context.regs[4] = CODE + 0x800
    assert bench.engine.run(context, 1000) == VECTOR_SYSCALL
    assert [event for event in seen if event[0] in (entry, after)] == [
        event for turn in (5, 4, 3, 2, 1) for event in ((entry, turn), (after, turn))]
    assert bench.engine.blocks_left() == left
    bench.engine.watch_blocks(None)
    seen.clear()
    bench.engine.run(bench.context(code), 1000)
    assert not seen


def test_changed_code_runs_after_forget_code(bench):
    context = bench.context("cc")
    assert bench.engine.run(context, 100) == 3
    context = bench.context("0f05")
    assert bench.engine.run(context, 100) == VECTOR_SYSCALL


def test_fpu_and_sse_state_survive_a_round_trip(bench):
    context = bench.context("cc")
    area = bytearray(context.fxsave())
    area[160:176] = bytes(range(16))
    area[24:28] = (0x1FA0).to_bytes(4, "little")
    context.fxrstor(bytes(area))
    assert context.fxsave() == bytes(area)
    context.eflags = 0x203
    context.fs_base = 0x7F12_3456_7000
    assert context.eflags & 1
    assert context.fs_base == 0x7F12_3456_7000
