#!/usr/bin/env python3
# ruff: noqa: E501  (the labs are lines of C)
"""How alike are the call graphs? Writes docs/fidelity.md.

A lab is one operation of a C program. tests/data/trace/edges holds what a real Linux (5.10.262, Debian) called during
it: lines `caller callee count`. The same operation runs here, between two calls of getsid(2) that switch recording on and
off, and the two sets of edges are compared: which of ours Linux has, and which of Linux's we have. Names that changed
between 5.3, whose names we use, and 5.10 are translated by RENAMED; what Debian's configuration adds, and locks, for which
a kernel on one host thread never waits, are passed through: the callees of such a function count as its caller's.
"""
from __future__ import annotations

import argparse
import lzma
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "trace")]
EDGES = ROOT / "tests" / "data" / "trace" / "edges"
PAGE = ROOT / "docs" / "fidelity.md"
BASE = "<root>"

# 5.10 -> 5.3
RENAMED = {
    "kernel_clone": "_do_fork", "do_sys_openat2": "do_sys_open", "try_to_unlazy": "unlazy_walk",
    "exit_to_user_mode_prepare": "exit_to_usermode_loop", "arch_do_signal_or_restart": "do_signal",
    "sysvec_apic_timer_interrupt": "smp_apic_timer_interrupt", "begin_new_exec": "flush_old_exec",
    "do_execveat_common": "__do_execve_file", "step_into": "walk_component", "open_last_lookups": "do_last",
    "do_open": "do_last", "bprm_execve": "__do_execve_file",
}
# Functions of Debian's configuration, of code that only runs with contention, or that 5.3 has not.
TRANSPARENT = re.compile(
    r"^(do_syscall_64|do_page_fault|__do_page_fault|do_user_addr_fault|"          # noinstr in 5.10
    r"_raw_\w+|_cond_resched|rcu_\w+|__rcu_\w+|call_rcu|apparmor_\w+|tomoyo_\w+|aa_\w+|begin_current_label\w*|"
    r"\w*mem_cgroup\w*|\w*memcg\w*|psi_\w+|cgroup_\w+|cpuacct_\w+|__cgroup_\w+|should_failslab|"
    r"security_\w+|audit_\w+|__audit_\w+|mutex_(un)?lock|down_\w+|up_\w+|kmem_cache_\w+|kfree|__kmalloc\w*|kmalloc_\w+|"
    r"___cache_free|memset\w*|memcpy\w*|__check_object_size|__virt_addr_valid|check_stack_object|"
    r"fpregs_assert_state_consistent|switch_fpu_return|fpu__\w+|blkcg_\w+|syscall_exit_to_user_mode\w*|"
    r"__traceiter_\w+|ftrace_\w+|irq_\w+|__update_load_avg_\w+|update_load_avg|update_cfs_group|record_times|"
    r"perf_event_\w+|task_numa_\w+|account_entity_\w+|reweight_entity|native_\w+|__x86_\w+|_paravirt\w+|"
    r"delayacct_\w+|taskstats_\w+|acct_\w+|cpuset_\w+|uprobe_\w+|kcov_\w+|io_uring_\w+|__io_uring_\w+|integrity_\w+|"
    r"__bpf_\w+|bpf_\w+|seccomp_\w+|userfaultfd_\w+|khugepaged_\w+|__khugepaged_\w+|__mod_\w+|mod_\w+|inc_\w+|dec_\w+|"
    r"__inc_\w+|__dec_\w+|refill_\w+|drain_\w+|sched_clock\w*|ktime_get_coarse\w*|__lock_text_start|"
    r"update_rq_clock|update_min_vruntime|clear_buddies|rb_\w+|__rb_\w+|_find_\w+|find_next_\w+|bitmap_\w+)$")

LABS = {
    "c-getpid": ("", "syscall(SYS_getppid);"),
    "c-uname": ("", "sethostname(\"refvm\",5);"),
    "c-dup": ("", "int f=dup(1);dup2(1,f+1);fcntl(f,F_SETFD,1);close(f);close(f+1);"),
    "c-sched_yield": ("", "sched_yield();"),
    "c-nanosleep": ("", "us(20000);"),
    "c-poll": ("int p[2];pipe(p);struct pollfd f={p[0],POLLIN};", "poll(&f,1,20);"),
    "c-epoll": ("int p[2];pipe(p);", "int e=epoll_create1(0);struct epoll_event ev={EPOLLIN,{0}};epoll_ctl(e,EPOLL_CTL_ADD,p[0],&ev);"
                "write(p[1],\"x\",1);epoll_wait(e,&ev,1,100);epoll_ctl(e,EPOLL_CTL_DEL,p[0],0);close(e);"),
    "c-devzero": ("int a=open(\"/dev/zero\",O_RDONLY),b=open(\"/dev/null\",O_WRONLY);", "read(a,buf,4096);write(b,buf,4096);"),
    "c-urandom": ("int a=open(\"/dev/urandom\",O_RDONLY);", "read(a,buf,64);"),
    "c-sighandler": ("struct sigaction a={0};a.sa_handler=on;", "sigaction(SIGUSR1,&a,0);kill(getpid(),SIGUSR1);"),
    "c-fork": ("", "pid_t p=fork();if(!p)_exit(0);int st;waitpid(p,&st,0);"),
    "c-vfork": ("", "pid_t p=vfork();if(!p)_exit(0);int st;waitpid(p,&st,0);"),
    "c-forkcow": ("char*q=malloc(8192);q[0]=q[4096]=1;",
                  "pid_t p=fork();if(!p){q[0]=2;q[4096]=2;_exit(0);}int st;waitpid(p,&st,0);q[0]=3;"),
    "c-pipe2p": ("int p[2];", "pipe(p);pid_t k=fork();if(!k){close(p[1]);int r=read(p[0],buf,64);_exit(r!=5);}close(p[0]);us(50000);"
                 "write(p[1],\"hello\",5);close(p[1]);int st;waitpid(k,&st,0);"),
    "c-sigkill": ("", "pid_t k=fork();if(!k){us(5000000);_exit(0);}us(50000);kill(k,SIGKILL);int st;waitpid(k,&st,0);"),
    "c-sigterm": ("", "pid_t k=fork();if(!k){pause();_exit(0);}us(50000);kill(k,SIGTERM);int st;waitpid(k,&st,0);"),
    "c-segv": ("", "pid_t p=fork();if(!p){signal(SIGSEGV,SIG_DFL);*(volatile int*)0=1;_exit(0);}int st;waitpid(p,&st,0);"),
    "c-anon": ("size_t L=1<<20;", "char*p=mmap(0,L,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);for(size_t k=0;k<L;k+=4096)p[k]=1;munmap(p,L);"),
    "c-mprotect": ("char*p=mmap(0,1<<16,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);memset(p,1,1<<16);",
                   "mprotect(p,1<<15,PROT_READ);mprotect(p,1<<15,3);p[0]=2;"),
    "c-setaffinity": ("cpu_set_t s;CPU_ZERO(&s);", "int cpu=sched_getcpu();CPU_SET(cpu?0:1,&s);sched_setaffinity(0,sizeof s,&s);"),
    "c-ptsopen": ("", "int fd=open(\"/dev/ptmx\",O_RDWR|O_NOCTTY);close(fd);"),
    "c-kmsg": ("int f=open(\"/dev/kmsg\",O_WRONLY);", "write(f,\"lab hello\",9);"),
    "c-mount": ("mkdir(\"/tmp/m\",0755);", "mount(\"none\",\"/tmp/m\",\"tmpfs\",0,0);umount(\"/tmp/m\");"),
}
PROGRAM = """#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static char buf[65536];
static void on(int s) {}
static void us(long n) { struct timespec t = {n / 1000000, n %% 1000000 * 1000}; nanosleep(&t, 0); }
int main(void) { memset(buf, 1, sizeof buf); %s
syscall(SYS_getsid, 0); %s
syscall(SYS_getsid, 0); return 0; }
"""


def name_of(name: str) -> str:
    """A name as 5.3 has it, without what the compiler appends."""
    name = re.sub(r"\.(part|isra|constprop|cold).*$", "", name)
    name = name.replace("__do_sys_", "__x64_sys_")
    return RENAMED.get(name, name)


def contracted(edges: dict[tuple[str, str], int]) -> dict[tuple[str, str], None]:
    """Edges between functions that count; those in between are passed through."""
    below: dict[str, list[str]] = {}
    for caller, callee in edges:
        below.setdefault(name_of(caller), []).append(name_of(callee))

    def reachable(name: str, seen: dict[str, None]) -> list[str]:
        found = []
        for callee in below.get(name, ()):
            if callee in seen:
                continue
            if TRANSPARENT.match(callee):
                seen[callee] = None
                found += reachable(callee, seen)
            else:
                found.append(callee)
        return found

    result: dict[tuple[str, str], None] = {}
    for caller in below:
        if not TRANSPARENT.match(caller):
            for callee in reachable(caller, {caller: None}):
                if callee != caller:
                    result[caller, callee] = None
    return result


def linux_edges(lab: str) -> dict[tuple[str, str], int]:
    text = lzma.decompress((EDGES / f"{lab}.txt.xz").read_bytes()).decode()
    found = {}
    for line in text.splitlines():
        caller, callee, count = line.split()
        found[caller, callee] = int(count)
    return found


def our_edges(lab: str, directory: pathlib.Path) -> dict[tuple[str, str], int]:
    from call_graph import CallGraph  # type: ignore[import-not-found]

    from glasskernel import Kernel
    from glasskernel.kernel.current import register

    source = directory / "lab.c"
    source.write_text(PROGRAM % LABS[lab])
    subprocess.run(["gcc", "-w", "-O1", "-static", "-pthread", "-o", directory / "lab", source], check=True)
    from glasskernel.init.command import Share

    with Kernel(cmdline="oops=panic", shares=(Share(str(directory), "/lab"),)) as kernel:
        graph = CallGraph(kernel)
        entry = graph.gops.entryfunc
        recording = [False]

        def bracketed(trace: Any) -> bool:
            task = register.task
            if task.comm != b"lab":
                return False
            name = graph.names[trace.func]
            if name == "__x64_sys_getsid":
                recording[0] = not recording[0]
                return False
            return entry(trace) if recording[0] else False

        graph.gops.entryfunc = bracketed
        with graph:
            result = kernel.run(["/lab/lab"])
        assert result.status == 0, (lab, result)
        return dict(graph.edges)


def percent(part: int, whole: int) -> str:
    return f"{100 * part // whole} %" if whole else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labs", nargs="*", default=list(LABS))
    parser.add_argument("--show", action="store_true", help="print the edges that only one side has")
    options = parser.parse_args()
    rows, sums = [], [0, 0, 0]
    with tempfile.TemporaryDirectory() as scratch:
        for lab in options.labs:
            theirs, ours = contracted(linux_edges(lab)), contracted(our_edges(lab, pathlib.Path(scratch)))
            both = [edge for edge in ours if edge in theirs]
            for at, number in enumerate((len(both), len(ours), len(theirs))):
                sums[at] += number
            rows.append((lab, len(ours), len(theirs), len(both)))
            print(lab, len(ours), len(theirs), len(both), flush=True)
            if options.show:
                print("only here:", *(f"  {a} > {b}" for a, b in ours if (a, b) not in theirs), sep="\n")
                print("only Linux:", *(f"  {a} > {b}" for a, b in theirs if (a, b) not in ours), sep="\n")
    if options.labs == list(LABS):
        lines = ["# Fidelity of call graphs", "", "Written by `python scripts/fidelity.py`, whose head says what is counted.", "",
                 "| lab | our edges | in Linux, too | Linux's edges | here, too |", "|---|---|---|---|---|"]
        lines += [f"| {lab} | {ours} | {percent(both, ours)} | {theirs} | {percent(both, theirs)} |"
                  for lab, ours, theirs, both in rows]
        lines.append(f"| **all** | {sums[1]} | {percent(sums[0], sums[1])} | {sums[2]} | {percent(sums[0], sums[2])} |")
        PAGE.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
