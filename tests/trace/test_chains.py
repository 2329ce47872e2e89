"""The call chains that the seed documents show: who calls whom, in one scenario that goes through all of them.

tests/data/trace/chains.toml holds the chains and a verdict on each: reproduced, explained (the differences have reasons) or
not yet. The edges it lists as seen must be seen; what is missing may appear at any time (`python tests/trace/test_chains.py`
prints the table).
"""
from __future__ import annotations

import pathlib
import sys
import tomllib
from collections import Counter

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from call_graph import CallGraph
from fidelity import rules

CHAINS = pathlib.Path(__file__).resolve().parent.parent / "data" / "trace" / "chains.toml"
SCENARIO = """
cd /root; echo data > e1; cat e1 >/dev/null; cat e1 >/dev/null; mv e1 e2; dd if=/dev/zero of=e3 bs=64k count=4 2>/dev/null; sync
echo 3 >/proc/sys/vm/drop_caches; cat e3 >/dev/null; echo 3 >/proc/sys/vm/drop_caches
python3 -c "
import ctypes, mmap, os
f = open('e3', 'r+b'); print(mmap.mmap(f.fileno(), 0)[5000]); os.rename('e2', 'e4'); ctypes.CDLL(None).renameat2(-100, b'e3', -100, b'e4', 2)
"; rm e3 e4
cd /tmp; ls -l / >/dev/null; echo hi > a; cat a > b; mv a c; rm b; cat /proc/self/maps /proc/devices >/dev/null; cat /proc/*/stat >/dev/null
echo 2 >/proc/sys/vm/overcommit_memory; /bin/true; echo 0 >/proc/sys/vm/overcommit_memory
deeper() { [ $1 -gt 0 ] && deeper $(($1 - 1)); }; deeper 400; strace -o /dev/null true
sleep 0.01; (exit 3); mkdir d; rmdir d; ls | cat >/dev/null; dd if=/dev/zero of=big bs=64k count=8 2>/dev/null; cat big >/dev/null; sync
bash -c 'kill -TERM $$' 2>/dev/null; trap 'true' USR1; kill -USR1 $$
(ulimit -c 0; python3 -c 'import ctypes; ctypes.string_at(0)') 2>/dev/null
set -m; sleep 9 & kill -STOP %1; sleep 0.01; kill -CONT %1; kill -9 %1; wait 2>/dev/null
python3 -c "
import mmap, os, time, tempfile, pty, select, signal, threading
signal.pthread_kill(threading.get_ident(), signal.SIGCONT)
m = mmap.mmap(-1, 1 << 20); m[0:9] = b'x' * 9
f = tempfile.TemporaryFile(); f.write(b'x' * 70000); f.flush()
n = mmap.mmap(f.fileno(), 65536); n[0:3] = b'abc'; n.flush(); os.fsync(f.fileno())
r, w = os.pipe(); master, slave = pty.openpty(); os.write(slave, b'hello\\n'); os.read(master, 9); os.write(master, b'x\\n')
if os.fork() == 0:
    m[5] = 7; os.write(w, b'x'); select.select([], [], [], 0.001); os._exit(0)
os.read(r, 1); os.wait()
" 2>/dev/null
python3 -c "
import os, select, socket, time
listener = socket.create_server(('127.0.0.1', 0)); client = socket.create_connection(listener.getsockname()); server = listener.accept()[0]
poll = select.poll(); poll.register(server, select.POLLIN)
if os.fork() == 0: time.sleep(0.01); client.send(b'x' * 100); os._exit(0)
print(poll.poll(), server.recv(999)); os.wait()
for port in range(20, 24): print(socket.socket().connect_ex(('10.0.2.2', port)))
" 2>/dev/null
(i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done) &
(i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done) & wait
"""


def chains():
    return tomllib.loads(CHAINS.read_text())["chain"]


@pytest.fixture(scope="module")
def seen():
    """What calls what while the scenario runs, once for all chains."""
    from glasskernel import Kernel

    with Kernel(cmdline="oops=panic preempt=voluntary") as kernel, CallGraph(kernel) as graph:
        kernel.run(["/bin/bash", "-c", SCENARIO])
        yield graph


def through_inlined(edges, caller, callee):
    """Whether there is a way that only meets functions which Linux's compiler inlines."""
    inlined, below, done = rules()["inlined"] | set(tomllib.loads(CHAINS.read_text())["inlined"]), {}, set()
    for one, other in edges:
        below.setdefault(one, []).append(other)
    front = [caller]
    while front:
        reached = [name for above in front for name in below.get(above, ())]
        if callee in reached:
            return True
        front = [name for name in dict.fromkeys(reached) if name in inlined and name not in done]
        done.update(front)
    return False


@pytest.mark.parametrize("chain", chains(), ids=lambda chain: chain["id"])
def test_a_chain_of_the_seeds_is_seen_here(seen, chain):
    absent = [edge for edge in map(tuple, chain.get("edges", ())) if edge not in seen.edges]
    absent += [edge for edge in chain.get("through", ()) if not through_inlined(seen.edges, *edge)]
    assert not absent, f"{chain['scenario']}: {absent}"
    assert chain["verdict"] == ("not yet" if chain.get("missing") else "explained" if chain.get("explained") else "reproduced")
    assert all(reason for kind in ("explained", "untraceable") for *_edge, reason in chain.get(kind, ()))


def verdicts():
    """(chain, verdict, edges seen, explained, missing)"""
    return [(chain["id"], chain["verdict"], len(chain.get("edges", ())) + len(chain.get("through", ())),
             len(chain.get("explained", ())), len(chain.get("missing", ()))) for chain in chains()]


def table():
    """The chains and their verdicts, as text."""
    lines = [f"{verdict:<11} {seen:3} seen {explained:3} explained {missing:3} missing  {name}"
             for name, verdict, seen, explained, missing in verdicts()]
    return "\n".join([*lines, str(dict(Counter(chain["verdict"] for chain in chains())))])


if __name__ == "__main__":
    print(table())
