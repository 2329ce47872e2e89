#!/usr/bin/env python3
# ruff: noqa: E501  (lines of Markdown and C)
"""How alike are the call graphs? `make fidelity` writes docs/fidelity.md.

A lab is one operation of a C program (tests/data/trace/labs/*.toml); of one that starts another program, "program" is
its name and only it is recorded; "tasks" are names of others that are recorded as well, as in the captures of all CPUs.
tests/data/trace/edges holds what a real Linux (5.10.262, Debian) called during it: lines `caller callee count`. The same
operation runs here, between two calls of getsid(2) that switch recording on and off, and the two sets of edges are
compared: which of ours Linux has, and which of Linux's we have. tests/data/trace/fidelity.toml is the whole list of what
is not compared letter by letter: names that changed between 5.3 and 5.10, functions that one side cannot show, calls that
5.3 makes otherwise, and what this kernel leaves out by design. A trap interrupts its caller and is not called by it, so
the first function of a page fault has the caller <root>, as in Linux's captures.
"""
from __future__ import annotations

import argparse
import functools
import lzma
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "trace")]
DATA = ROOT / "tests" / "data" / "trace"
PAGE = ROOT / "docs" / "fidelity.md"
BASE = "<root>"
FAULT = ("down_read_trylock", "find_vma", "handle_mm_fault", "up_read")
TRAPS = ("do_page_fault", "__do_page_fault")
MARK = "__x64_sys_getsid"
INTERRUPTS = ("do_IRQ", "smp_apic_timer_interrupt", "smp_reschedule_interrupt", "smp_irq_work_interrupt")
PROGRAM = """#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static char buf[65536];
static void on(int s) {}
static void us(long n) { struct timespec t = {n / 1000000, n %% 1000000 * 1000}; nanosleep(&t, 0); }
static void mk(const char *name, long size) { int f = open(name, O_CREAT|O_WRONLY, 0644);
    while (size > 0) size -= write(f, buf, size < sizeof buf ? size : sizeof buf); close(f); }
/* A program, recorded from just before its execve(2) on. Its output is a file, and it has run before, as in the captures. */
#define RUN(...) do { syscall(SYS_getsid, 0); dup2(open("out", O_CREAT|O_WRONLY, 0644), 1); once(__VA_ARGS__); \
    if (!fork()) { syscall(SYS_getsid, 0); execlp(__VA_ARGS__, (char *)0); } while (wait(0) > 0); } while (0)
static void once(const char *program, ...) {
    if (!fork()) { dup2(open("/dev/null", O_WRONLY), 1); dup2(1, 2); execlp(program, program, "--version", (char *)0); } while (wait(0) > 0); }
static int caches;
static const char *place;
static char *at(const char *name) { static char path[64]; sprintf(path, "%%s/%%s", place, name); return path; }
static void disk(void) {      /* a directory on ext4, with the options and the I/O scheduler of the captures' machine */
    caches = open("/proc/sys/vm/drop_caches", O_WRONLY); chdir("/root"); mount("none", "/root", "ext4", MS_REMOUNT, "dioread_nolock");
    int q = open("/sys/block/sda/queue/scheduler", O_WRONLY); write(q, "none", 4); close(q);
    mkdir("lab", 0755); mkdir("lab/w", 0755); chdir(place = "/root/lab/w"); }
static void home(void) { disk(); chroot("/root"); chdir("/lab"); place = "/lab/w"; }
static void settle(void) {    /* as there: blocks are kept for the next small file, a transaction runs, a directory was searched */
    struct stat s; mk(at("before"), 5000); sync(); mk(at("other"), 10); stat(at("none"), &s); }
static void cold(void) { sync(); write(caches, "3", 1); settle(); }
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void *locker(void *a) { pthread_mutex_lock(&m); pthread_mutex_unlock(&m); return a; }
static void spin(long ms) { struct timespec a, b; clock_gettime(CLOCK_MONOTONIC, &a);
    do clock_gettime(CLOCK_MONOTONIC, &b); while ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < ms); }
static void warm(void) {      /* as in the captures, other processes have run before: Linux keeps their stacks */
    cpu_set_t all, one; sched_getaffinity(0, sizeof all, &all); CPU_ZERO(&one); CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (int i = 0; i < 3; i++) if (!fork()) _exit(0);
    while (wait(0) > 0);
    sched_setaffinity(0, sizeof all, &all); us(20000); }
int main(void) { warm(); memset(buf, 1, sizeof buf); %s
syscall(SYS_getsid, 0); %s
syscall(SYS_getsid, 0); return 0; }
"""
Edge = tuple[str, str]
Edges = dict[Edge, int]
Row = tuple[str, int, int, int, int]      # lab; edges of both, ours that Linux has somewhere, ours, Linux's


@functools.cache
def labs() -> dict[str, dict[str, str]]:
    """Every lab: its C before recording starts (setup) and its operation."""
    return {name: lab for path in sorted((DATA / "labs").glob("*.toml")) for name, lab in tomllib.loads(path.read_text()).items()}


@functools.cache
def rules() -> dict[str, Any]:
    """fidelity.toml."""
    found: dict[str, Any] = tomllib.loads((DATA / "fidelity.toml").read_text())
    found["dropped"] = re.compile("^(" + "|".join(found["by_design"].values()) + ")$")
    found["inlined"] = frozenset(name for names in found["not_in_reference"].values() for name in names)
    found["extra"] = frozenset(found["only_in_reference"]["names"])
    return found


@functools.cache
def reference_names() -> frozenset[str]:
    """What can be traced in the reference kernel, under 5.3's names."""
    text = lzma.decompress((DATA / "traceable-5.10.txt.xz").read_bytes()).decode()
    return frozenset(name_of(name) for name in text.split())


def name_of(name: str) -> str:
    """A name of the reference kernel as 5.3 has it, without what the compiler appends."""
    name = re.sub(r"\.(part|isra|constprop|cold).*$", "", name).replace("__do_sys_", "__x64_sys_")
    renamed: str = rules()["renamed"].get(name, name)
    return renamed


@functools.cache
def passed(name: str) -> bool:
    """Whether calls pass through a function."""
    return name in rules()["inlined"] or name in rules()["extra"] or name.startswith("security_")


@functools.cache
def dropped(name: str) -> bool:
    """Whether a function, and what it calls, is left out."""
    return rules()["dropped"].match(name) is not None


def contracted(edges: Edges) -> dict[Edge, None]:
    """Edges between functions that count. (Ours are recorded that way: exactly.)"""
    below: dict[str, list[str]] = {}
    for caller, callee in edges:
        if not dropped(caller) and not dropped(callee):
            below.setdefault(caller, []).append(callee)

    def reachable(name: str, seen: dict[str, None]) -> list[str]:
        found = []
        for callee in below.get(name, ()):
            if callee in seen:
                continue
            if passed(callee):
                seen[callee] = None
                found += reachable(callee, seen)
            else:
                found.append(callee)
        return found

    result: dict[Edge, None] = {}
    front, known = [BASE], {BASE: None}
    while front:
        caller = front.pop()
        for callee in reachable(caller, {caller: None}):
            if callee != caller:
                result[caller, callee] = None
            if callee not in known:
                known[callee] = None
                front.append(callee)
    return result


def linux_edges(lab: str) -> Edges:
    """What Linux did, under 5.3's names."""
    text = lzma.decompress((DATA / "edges" / f"{lab}.txt.xz").read_bytes()).decode()
    found: Edges = {}
    for line in text.splitlines():
        caller, callee, count = line.split()
        found[name_of(caller), name_of(callee)] = int(count)
    # Who calls both of these was interrupted by a page fault, whose own entry function cannot be traced.
    for name in [one for one, other in found if other == "handle_mm_fault" and (one, "down_read_trylock") in found]:
        for callee in FAULT:
            times = found.pop((name, callee), 0)
            if times:
                found[BASE, callee] = found.get((BASE, callee), 0) + times
    return found


def caller_of(calls: list[Any], names: dict[int, str]) -> str | None:
    """The innermost function around the last of these calls that counts; None below an interrupt or the mark."""
    found = None
    for call in reversed(calls[:-1]):
        name = names[call.func]
        if name in INTERRUPTS or name == MARK or dropped(name):
            return None
        if found is None and (name in TRAPS or not passed(name)):
            found = BASE if name in TRAPS else name
    return found or BASE


def build(source: str, target: pathlib.Path) -> None:
    target.with_suffix(".c").write_text(source)
    subprocess.run(["gcc", "-w", "-O1", "-static", "-pthread", "-o", target, target.with_suffix(".c")], check=True)


def our_edges(lab: str, directory: pathlib.Path) -> Edges:
    """Runs the lab's program here and records who calls whom in its processes."""
    from call_graph import CallGraph  # type: ignore[import-not-found]

    from glasskernel import Kernel
    from glasskernel.init.command import Share
    from glasskernel.kernel.current import register

    text = labs()[lab]
    recorded = (*(name.encode() for name in text.get("tasks", ())), text.get("program", "lab").encode(), b"nop")
    build(PROGRAM % (text.get("setup", ""), text["operation"]), directory / "lab")
    if not (directory / "nop").exists():
        build("int main(void) { return 0; }", directory / "nop")
    with Kernel(cmdline="oops=panic preempt=voluntary", shares=(Share(str(directory), "/lab"),)) as kernel:
        graph = CallGraph(kernel)
        edges: Edges = {}
        recording = [False]
        parents: list[Any] = []                       # who started the program: not recorded
        before: dict[Any, int] = {}                   # how many calls of a task had begun when recording started

        def entry(trace: Any) -> bool:
            task = register.task
            name = graph.names[trace.func]
            if name == MARK:
                if "program" in text and not parents:
                    parents.append(task)
                return True
            calls = task.ret_stack.calls
            if not recording[0]:
                before[task] = len(calls)
                return True
            depth = before[task] = min(before.get(task, 0), len(calls) - 1)
            if ((task.comm.startswith(recorded) or (parents and task.comm == b"lab" and task is not parents[0]))
                    and name not in INTERRUPTS and not passed(name) and not dropped(name)):
                caller = caller_of(calls[depth:], graph.names)
                if caller is not None:
                    edges[caller, name] = edges.get((caller, name), 0) + 1
            return True

        def leave(trace: Any) -> None:
            if graph.names[trace.func] == MARK:
                recording[0] = not recording[0]

        graph.gops.entryfunc, graph.gops.retfunc = entry, leave
        with graph:
            result = kernel.run(["/lab/lab"])
        assert result.status == 0, (lab, result)
        return edges


def compare(lab: str, theirs: Edges, ours: Edges) -> tuple[list[Edge], list[Edge], list[Edge]]:
    """(edges of both, only ours, only Linux's). Ours that are explained are left out."""
    known, explained = contracted(theirs), rules()["explained"]
    return ([edge for edge in ours if edge in known],
            [edge for edge in ours if edge not in known and " > ".join(edge) not in explained],
            [edge for edge in known if edge not in ours])


@functools.cache
def all_of_linux() -> dict[Edge, None]:
    """The edges of all captures: what Linux does at times, though not in the lab at hand."""
    return contracted({edge: count for lab in labs() for edge, count in linux_edges(lab).items()})


def percent(part: int, whole: int) -> str:
    return f"{100 * part // whole} %" if whole else "-"


def page(rows: list[Row]) -> str:
    """docs/fidelity.md."""
    from test_chains import verdicts  # type: ignore[import-not-found]

    lines = [
        "# Fidelity of call graphs", "",
        "Written by `make fidelity`. The head of `scripts/fidelity.py` says what is compared; `tests/data/trace/fidelity.toml` is the",
        "whole list of names that are translated, passed through or explained. Linux is 5.10.262 as Debian builds it. A function",
        "that it cannot trace, because its compiler inlined it, is passed through: if we call A > inlined > B, then A > B counts.",
        "This kernel runs with preempt=voluntary then, as Debian's does, and the ext4 labs with Debian's mount options.", "",
        "Not here by design, and left out with all that only these call:", "",
        *(f"* {reason}" for reason in rules()["by_design"]), "",
        "Not here yet, and counted: load tracking (PELT), pagevecs, POSIX CPU timers of groups, user namespaces,",
        "the random pool's mixing, references on a walk's root and links, parallel lookups in a directory, sendfile(2) through a pipe,",
        "preemption points where memory is allocated.", "",
        "*in Linux, too*: of our edges, those that Linux has in this lab; *in any lab*: that it has in some lab's capture",
        "(who wakes first, and which page is there already, is a matter of time).", "",
        "| lab | our edges | in Linux, too | in any lab | Linux's edges | here, too |", "|---|---|---|---|---|---|",
    ]
    total: Row = ("**all**", *(sum(int(row[at]) for row in rows) for at in (1, 2, 3, 4)))  # type: ignore[assignment]
    lines += [f"| {lab} | {ours} | {percent(both, ours)} | {percent(elsewhere, ours)} | {theirs} | {percent(both, theirs)} |"
              for lab, both, elsewhere, ours, theirs in [*rows, total]]
    lines += ["", "## Call chains of the seed documents", "",
              "`tests/trace/test_chains.py` runs one scenario and looks for each edge. *explained*: shown otherwise, for a reason",
              "that `tests/data/trace/chains.toml` names; *missing*: not yet.", "",
              "| chain | verdict | seen | explained | missing |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {verdict} | {seen} | {explained} | {missing} |" for name, verdict, seen, explained, missing in verdicts()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("labs", nargs="*", default=list(labs()))
    parser.add_argument("--show", action="store_true", help="print the edges that only one side has")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for lab in options.labs:
            both, only_ours, only_theirs = compare(lab, linux_edges(lab), our_edges(lab, pathlib.Path(scratch)))
            elsewhere = len(both) + sum(edge in all_of_linux() for edge in only_ours)
            rows.append((lab, len(both), elsewhere, len(both) + len(only_ours), len(both) + len(only_theirs)))
            print(*rows[-1], flush=True)
            if options.show:
                print("only here:", *(f"  {a} > {b}" for a, b in only_ours), sep="\n")
                print("only Linux:", *(f"  {a} > {b}" for a, b in only_theirs), sep="\n")
    if options.labs == list(labs()):
        PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
