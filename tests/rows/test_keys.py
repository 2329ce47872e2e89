"""keyrings(7): keys of processes, sessions and users, through keyctl(1) and the system calls."""
from __future__ import annotations

import re

from tests.conftest import need

PRELUDE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(nr, *args):
    args = [a.encode() if isinstance(a, str) else a for a in args]
    value = libc.syscall(nr, *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return value if value >= 0 else -ctypes.get_errno()
def add_key(kind, name, data, ring): return call(248, kind, name, data, len(data), ring)
def request_key(kind, name): return call(249, kind, name, 0, 0)
def keyctl(*args): return call(250, *args)
def read(key):
    buffer = ctypes.create_string_buffer(100)
    return buffer.raw[:n] if (n := keyctl(11, key, buffer, 100)) >= 0 else n
THREAD, PROCESS, SESSION, USER = -1, -2, -3, -4
"""


def inside(kernel, script, uid=0):
    result = kernel.run(["python3", "-c", PRELUDE + script], uid=uid, gid=uid, cwd="/")
    assert result.status == 0, result.stderr.decode()
    return result.stdout.decode()


def keyctl(kernel, script):
    need("keyctl", "keyutils")
    return kernel.run(["keyctl", "session", "-", "bash", "-c", script])


def test_keyctl_adds_finds_and_reads_a_key(boot):
    result = keyctl(boot(), "k=$(keyctl add user mykey hello @s); keyctl print $k; keyctl update $k world; keyctl pipe %user:mykey; echo; "
                            "keyctl describe $k; keyctl search @s user mykey; echo $k; keyctl request user mykey; keyctl show | tail -1")
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == ["hello", "world"]
    assert re.fullmatch(r"\d+: alswrv-----v------------ +0 +0 user: mykey", lines[2])
    assert lines[3] == lines[4] == lines[5]
    assert re.fullmatch(r" *\d+ --alswrv +0 +0   \\_ user: mykey", lines[6])
    assert b"Joined session keyring" in result.stderr


def test_a_session_keyring_belongs_to_the_processes_of_that_session(boot):
    result = keyctl(boot(), "keyctl add user secret one @s >/dev/null; (keyctl print %user:secret); "
                            "keyctl session - keyctl request user secret; keyctl print %user:secret")
    assert result.stdout.split() == [b"one", b"one"]
    assert b"Required key not available" in result.stderr


def test_the_users_keyring_is_shared_by_his_sessions(boot):
    kernel = boot()
    assert inside(kernel, "print(add_key('user', 'mine', 'x', USER) > 0)", uid=1000) == "True\n"
    assert inside(kernel, "keyctl(1, 0); key = keyctl(10, USER, 'user', 'mine', 0); keyctl(8, USER, SESSION); print(key > 0, read(key))", uid=1000) == "True b'x'\n"
    assert inside(kernel, "print(keyctl(10, USER, 'user', 'mine', 0))", uid=1001) == "-126\n"


def test_thread_and_process_keyrings_do_not_outlive_fork_and_exec(boot):
    out = inside(boot(), """
import threading
own = add_key('user', 'p', 'data', PROCESS)
add_key('user', 't', 'data', THREAD)
print(request_key('user', 'p') == own, request_key('user', 't') > 0, flush=True)
t = threading.Thread(target=lambda: print(request_key('user', 'p') == own, request_key('user', 't'), flush=True))
t.start(); t.join()
if os.fork() == 0:
    print(request_key('user', 'p'), keyctl(0, PROCESS, 0), flush=True)
    os._exit(0)
os.wait()
""")
    assert out == "True True\nTrue -126\n-126 -126\n"


def test_permissions_of_owner_possessor_and_others(boot):
    kernel = boot()
    out = inside(kernel, """
key = add_key('user', 'k', 'data', PROCESS)
print(read(key), keyctl(5, key, 0x3f000000 & ~(2 << 24)))
print(read(key) == b'data')                # who may search may read what he possesses
print(keyctl(5, key, 0x20000000), read(key), keyctl(2, key, 'new', 3))
print(keyctl(5, key, 0xffffffff))
logon = add_key('logon', 'a:b', 'password', PROCESS)
print(logon > 0, read(logon), add_key('logon', 'noprefix', 'x', PROCESS))
""")
    assert out == "b'data' 0\nTrue\n0 -13 -13\n-22\nTrue -95 -22\n"
    key = int(inside(kernel, "print(add_key('user', 'root', 'data', USER))"))
    assert inside(kernel, f"print(read({key}), keyctl(9, {key}, USER), keyctl(3, {key}))", uid=1000) == "-13 -2 -13\n"


def test_a_key_expires_is_revoked_and_invalidated(boot):
    out = inside(boot(), """
import time
a = add_key('user', 'a', 'x', PROCESS)
keyctl(15, a, 5)
print([l.split()[3] for l in open('/proc/keys') if l.startswith('%08x' % a)])
time.sleep(4); print(read(a))
time.sleep(2); print(read(a), request_key('user', 'a'))
b = add_key('user', 'b', 'x', PROCESS)
print(keyctl(3, b), read(b), request_key('user', 'b'))
c = add_key('user', 'c', 'x', PROCESS)
print(keyctl(21, c)); time.sleep(0.1); print(read(c), keyctl(11, PROCESS, 0, 0))
""")
    assert out == "['5s']\nb'x'\n-127 -127\n0 -128 -128\n0\n-126 8\n"


def test_links_make_no_circles_and_displace_their_like(boot):
    out = inside(boot(), """
r = add_key('keyring', 'r', '', PROCESS); s = add_key('keyring', 's', '', r)
print(keyctl(8, r, s), keyctl(8, r, r))
a = add_key('user', 'x', '1', r); keyctl(8, a, PROCESS)
b = add_key('user', 'x', '2', s); print(keyctl(8, b, r), keyctl(9, a, r), read(a))
print(keyctl(30, b, s, PROCESS, 1), keyctl(30, b, s, PROCESS, 0), keyctl(11, s, 0, 0), keyctl(7, r), keyctl(11, r, 0, 0))
""")
    assert out == "-35 -35\n0 -2 b'1'\n-17 0 0 0 0\n"


def test_quotas_and_key_users(boot):
    kernel = boot()
    out = inside(kernel, """
made = 0
while (e := add_key('user', 'k%d' % made, 'x' * 100, PROCESS)) > 0: made += 1
print(e, made > 150)
print(open('/proc/key-users').read().split())
""", uid=1000)
    assert out.startswith("-122 True\n")
    uid, _usage, keys, qkeys, qbytes = eval(out.splitlines()[1])[-5:]
    assert uid == "1000:" and keys.split("/")[0] == keys.split("/")[1] == qkeys.split("/")[0]
    assert qkeys.endswith("/200") and qbytes.endswith("/20000") and int(qbytes.split("/")[0]) <= 20000
    kernel.run(["sleep", "1"])
    assert kernel.keys is not None and 1000 not in kernel.keys.users      # collected with the process
    assert not kernel.keys.serials


def test_no_key_no_import(boot):
    kernel = boot()
    kernel.run(["sh", "-c", "cat /proc/keys /proc/key-users"])
    assert kernel.keys is None


def test_errors_of_the_calls(boot):
    out = inside(boot(), """
print(add_key('nosuch', 'a', 'x', PROCESS), add_key('.hidden', 'a', 'x', PROCESS), add_key('user', '', 'x', PROCESS),
      add_key('user', 'a', '', PROCESS), add_key('user', 'a', 'x', 12345), add_key('user', 'a', 'x', -9),
      keyctl(99), keyctl(12, 1, 0, 0, 0), keyctl(0, THREAD, 0), request_key('user', 'absent'), keyctl(14, 77))
key = add_key('user', 'a', 'x', PROCESS)
print(add_key('user', 'b', 'x', key), keyctl(7, key), keyctl(14, -1), keyctl(14, 3), keyctl(14, -1))
""")
    assert out == "-19 -1 -22 -22 -126 -22 -95 -1 -126 -126 -22\n-20 -20 0 0 3\n"
