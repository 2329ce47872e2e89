"""perl, python3 and sqlite3, unmodified."""
import pytest

from tests.conftest import need

PYTHON = "/usr/bin/python3"


def test_perl_runs(agree):
    need("perl", "perl")
    agree(r"""perl -e '
        my %h = map { $_ => length } qw(one three five); print join(",", map {"$_=$h{$_}"} sort keys %h), "\n";
        open my $f, ">", "f" or die; print $f "line $_\n" for 1..3; close $f; open $f, "<", "f"; my @l = <$f>; print scalar(@l), $l[-1];
        my $pid = fork; if (!$pid) { exit 3 } waitpid $pid, 0; print $? >> 8, "\n"; print `echo from sub`; pipe(R, W);
        if (!fork) { print W "piped\n"; exit } close W; print <R>; $SIG{ALRM} = sub { print "alarm\n" }; alarm 1; select undef, undef, undef, 3;
        print "ok\n" if "kernel" =~ /^k(.*)l$/ and $1 eq "erne"; printf "%.3f %s\n", 22/7, sprintf("%b", 10); print((stat "f")[7], "\n");
        opendir D, "."; print join(" ", sort grep !/^\./, readdir D), "\n"; rename "f", "g"; print -e "g" ? "y" : "n", "\n"; die "end\n"'; echo $?""")


def python(agree, code, **options):
    need("python3", "python3")
    return agree("exec /usr/bin/python3 -I -c \"$CODE\"", env={"CODE": code}, **options)


def test_python_computes_and_reads_files(agree):
    python(agree, """
import hashlib, json, os, re, sys, zlib, struct, decimal
open("f", "w").write("line\\n" * 1000)
print(sum(len(l) for l in open("f")), os.stat("f").st_size, sorted(os.listdir(".")), 2 ** 200, decimal.Decimal(1) / 7)
print(hashlib.sha256(b"x" * 10000).hexdigest(), json.dumps({"a": [1, 2.5, None]}), zlib.crc32(b"abc"), re.sub("a+", "b", "caat"))
os.mkdir("d"); os.rename("f", "d/f"); os.symlink("d/f", "l"); print(os.readlink("l"), os.path.getsize("l"))
try: open("nosuch")
except OSError as e: print(e.errno, e.strerror)
sys.exit(5)""")


def test_python_threads_share_memory_and_locks(agree):
    python(agree, """
import threading, queue
n, lock, q, out = 0, threading.Lock(), queue.Queue(), []
def add():
    global n
    for _ in range(500):
        with lock: n += 1
def work():
    while (item := q.get()) is not None: out.append(item * item)
ts = [threading.Thread(target=add) for _ in range(8)] + [threading.Thread(target=work)]
for t in ts: t.start()
for i in range(10): q.put(i)
q.put(None)
for t in ts: t.join()
print(n, out, threading.active_count())
e = threading.Event(); threading.Timer(0.05, e.set).start(); print(e.wait(5), threading.Event().wait(0.01))
b = threading.Barrier(3); r = []
ts = [threading.Thread(target=lambda i=i: r.append((b.wait() >= 0))) for i in range(3)]
[t.start() for t in ts]; [t.join() for t in ts]; print(r)""")


def test_python_subprocess_starts_programs_and_pipes(agree):
    python(agree, """
import subprocess as s, signal
print(s.run(["tr", "a-z", "A-Z"], input=b"hello", capture_output=True).stdout, s.call(["sh", "-c", "exit 9"]))
print(s.run("echo out; echo err >&2", shell=True, capture_output=True, text=True))
p = s.Popen(["sleep", "60"]); p.terminate(); print(p.wait()); p = s.Popen(["cat"], stdin=s.PIPE, stdout=s.PIPE)
print(p.communicate(b"x" * 100000)[0] == b"x" * 100000)
try: s.run(["sleep", "60"], timeout=0.1)
except s.TimeoutExpired: print("timeout")
try: s.run(["/nosuch"])
except FileNotFoundError as e: print(e)
print(s.run(["sh", "-c", "ls /proc/self/fd | wc -l"], capture_output=True, start_new_session=True, env={"PATH": "/bin"}).returncode)""")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_python_multiprocessing(method, agree):
    need("python3", "python3")
    agree("""cat >m.py <<'E'
import multiprocessing as mp
def square(x): return x * x
def child(q, lock, v):
    with lock: v.value += 1
    q.put(v.value)
if __name__ == "__main__":
    mp.set_start_method("%s")
    with mp.Pool(2) as pool: print(pool.map(square, range(6)))
    q, lock, v = mp.Queue(), mp.Lock(), mp.Value("i", 0)
    ps = [mp.Process(target=child, args=(q, lock, v)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join()
    print(sorted(q.get() for _ in ps), v.value, [p.exitcode for p in ps])
E
exec /usr/bin/python3 m.py""" % method)


def test_python_asyncio_without_a_network(agree):
    python(agree, """
import asyncio
async def tick(n, d):
    await asyncio.sleep(d); return n
async def main():
    print(await asyncio.gather(tick(1, 0.03), tick(2, 0.01), tick(3, 0)))
    try: await asyncio.wait_for(asyncio.sleep(9), 0.02)
    except asyncio.TimeoutError: print("timeout")
    p = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print(await p.communicate(b"through a pipe"), p.returncode)
    print(await asyncio.get_running_loop().run_in_executor(None, sum, range(10)))
asyncio.run(main())""")


def test_python_tempfile_mmap_signal_and_select(agree):
    python(agree, """
import fcntl, mmap, os, resource, select, signal, tempfile, time
with tempfile.TemporaryFile() as f:
    f.write(b"a" * 8192); f.flush(); m = mmap.mmap(f.fileno(), 8192); m[4096:4100] = b"BBBB"; f.seek(4094); print(f.read(8)); m.close()
with tempfile.TemporaryDirectory() as d: print(os.path.isdir(d), len(os.listdir(d)))
print(os.path.exists(d)); a = mmap.mmap(-1, 4096); pid = os.fork()
if pid == 0: a[0] = 7; os._exit(0)
os.waitpid(pid, 0); print(a[0])
signal.signal(signal.SIGALRM, lambda s, f: print("got", signal.Signals(s).name)); signal.setitimer(signal.ITIMER_REAL, 0.02)
time.sleep(0.1); r, w = os.pipe(); print(select.select([r], [w], [], 0)[1] == [w]); p = select.poll(); p.register(r, select.POLLIN)
print(p.poll(10)); os.write(w, b"x"); print(p.poll(10) == [(r, select.POLLIN)]); e = select.epoll(); e.register(r); print(e.poll(0)[0][1])
fcntl.flock(w2 := os.open("lk", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB); print(os.get_inheritable(w2), os.pread(w2, 5, 0))
print(resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1, os.sched_getaffinity(0) != set(), signal.sigpending())
print(time.monotonic() >= 0, time.strftime("%Y", time.gmtime(0)), os.times().user >= 0, os.cpu_count() > 0, os.getloadavg()[0] >= 0)""")


def test_sqlite_keeps_a_database_on_disk(agree):
    need("sqlite3", "sqlite3")
    agree("""
        sqlite3 db 'create table t(a integer primary key, b text); insert into t(b) values ("x"),("y"); select * from t;'
        for i in 1 2 3; do echo "insert into t(b) values ('row $i');"; done | sqlite3 db; sqlite3 -header db 'select count(*), max(b) from t'
        sqlite3 db 'begin; delete from t; rollback; select sum(a) from t; pragma integrity_check; pragma journal_mode=wal;'
        sqlite3 db 'with recursive c(x) as (select 1 union all select x+1 from c where x<2000) insert into t(b) select hex(x) from c; select count(*) from t'
        sqlite3 db .dump | md5sum; sqlite3 db 'select nosuch'; echo $?; sqlite3 :memory: 'select 355.0/113'""", stderr=False)
