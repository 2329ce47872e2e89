"""machine/hostdir.py: nothing outside the lent directory can be reached, whatever the guest says or the host does."""

import os
import socket

import pytest

from glasskernel.machine import hostdir
from glasskernel.machine.hostdir import HostDir


@pytest.fixture
def tree(tmp_path):
    """A shared directory next to a secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    share = tmp_path / "share"
    (share / "dir").mkdir(parents=True)
    (share / "file").write_text("inside")
    (share / "dir/file").write_text("deep inside")
    return tmp_path


@pytest.fixture
def host(tree):
    host = HostDir(str(tree / "share"), writable=True)
    yield host
    host.close()


def read(file, size=100, offset=0):
    buffer = bytearray(size)
    return bytes(buffer[: file.read_into(memoryview(buffer), offset)])


def test_a_file_is_read_at_an_offset(host):
    file = host.open((b"dir", b"file"))
    assert read(file) == b"deep inside"
    assert read(file, 4, 5) == b"insi"
    assert read(file, 4, 50) == b""


@pytest.mark.parametrize("name", [b"..", b".", b"", b"dir/../../secret", b"../secret", b"/etc/passwd", b"a\0b"])
def test_only_plain_names_can_be_said(host, name):
    for path in ((name,), (b"dir", name), (name, b"secret")):
        with pytest.raises(OSError):
            host.open(path)
        with pytest.raises(OSError):
            host.stat(path)


def test_a_symlink_to_a_file_outside_is_not_followed(host, tree):
    (tree / "share/link").symlink_to(tree / "secret")
    with pytest.raises(OSError):
        host.open((b"link",))
    assert host.readlink((b"link",)) == os.fsencode(tree / "secret")
    assert os.path.islink(tree / "share/link")


def test_a_symlink_to_a_directory_outside_is_not_walked_through(host, tree):
    (tree / "share/link").symlink_to(tree / "outside")
    for path in ((b"link", b"file"), (b"link", b"new")):
        with pytest.raises(OSError):
            host.open(path)
        with pytest.raises(OSError):
            host.create(path, 0o644)
    assert os.listdir(tree / "outside") == ["file"]


def test_a_directory_that_becomes_a_symlink_between_two_calls_leads_nowhere(host, tree, monkeypatch):
    """The attack on check-then-use: the swap happens after the directory was looked at, before it is opened."""
    swapped = []
    real_open = os.open

    def open_after_swap(path, flags, *args, **kwargs):
        if path == b"dir" and not swapped:
            swapped.append(True)
            os.rename(tree / "share/dir", tree / "share/was-dir")
            os.symlink(tree / "outside", tree / "share/dir")
        return real_open(path, flags, *args, **kwargs)

    assert host.stat((b"dir",)).st_mode & 0o170000 == 0o040000
    monkeypatch.setattr(hostdir.os, "open", open_after_swap)
    with pytest.raises(OSError):
        host.open((b"dir", b"file"))
    assert swapped


def test_a_directory_swapped_while_it_is_remembered_is_looked_up_again(host, tree):
    host.open((b"dir", b"file"))
    os.rename(tree / "share/dir", tree / "share/was-dir")
    os.symlink(tree / "outside", tree / "share/dir")
    host.stat((b"dir",))
    with pytest.raises(OSError):
        host.open((b"dir", b"file"))


def test_a_file_swapped_for_a_symlink_cannot_be_written_through(host, tree):
    os.remove(tree / "share/file")
    os.symlink(tree / "secret", tree / "share/file")
    for action in (lambda: host.open((b"file",), write=True), lambda: host.chmod((b"file",), 0o777)):
        with pytest.raises(OSError):
            action()
    assert (tree / "secret").read_text() == "secret"


def test_fifos_sockets_and_devices_are_seen_but_not_opened(host, tree):
    os.mkfifo(tree / "share/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tree / "share")                  # a socket's path must be short
        try:
            server.bind("sock")
        finally:
            os.chdir(here)
    for name in (b"fifo", b"sock"):
        assert host.stat((name,))
        with pytest.raises(OSError):
            host.open((name,))


def test_names_are_listed_in_byte_order_with_their_types(host, tree):
    (tree / "share/link").symlink_to("file")
    assert [(n, t) for n, _, t in host.list(())] == [
        (b"dir", 0o040000), (b"file", 0o100000), (b"link", 0o120000)]


def test_nothing_is_written_when_lent_for_reading(tree):
    host = HostDir(str(tree / "share"))
    for action in (
        lambda: host.open((b"file",), write=True), lambda: host.create((b"new",), 0o644),
        lambda: host.mkdir((b"new",), 0o755), lambda: host.unlink((b"file",)), lambda: host.rmdir((b"dir",)),
        lambda: host.rename((b"file",), (b"new",)), lambda: host.symlink((b"new",), b"x"),
        lambda: host.link((b"file",), (b"new",)), lambda: host.chmod((b"file",), 0), lambda: host.utime((), 0, 0),
        lambda: host.mkfifo((b"new",), 0o644),
    ):
        with pytest.raises(OSError) as e:
            action()
        assert e.value.errno == 30
    assert sorted(os.listdir(tree / "share")) == ["dir", "file"]
    host.close()


def test_created_files_never_get_the_set_user_id_bit(host, tree):
    host.create((b"new",), 0o6755)
    host.mkdir((b"newdir",), 0o7755)
    host.chmod((b"file",), 0o4711)
    assert os.stat(tree / "share/new").st_mode & 0o7777 == 0o755
    assert os.stat(tree / "share/newdir").st_mode & 0o7777 == 0o1755
    assert os.stat(tree / "share/file").st_mode & 0o7777 == 0o711


def test_more_open_files_than_descriptors_are_opened_again_when_used(host, tree, monkeypatch):
    monkeypatch.setattr(hostdir, "MAX_FILES", 4)
    files = []
    for i in range(20):
        (tree / f"share/f{i}").write_text(str(i))
        files.append(host.open((b"f%d" % i,)))
    assert sum(f._fd >= 0 for f in files) <= 5
    assert [read(f) for f in files] == [b"%d" % i for i in range(20)]


def test_a_file_replaced_on_the_host_is_not_mistaken_for_the_old_one(host, tree):
    file = host.open((b"file",))
    file.close()
    (tree / "share/other").write_text("other")
    os.replace(tree / "share/other", tree / "share/file")
    with pytest.raises(OSError) as e:
        read(file)
    assert e.value.errno == 116


def test_an_unlinked_file_stays_readable_while_it_is_open(host):
    file = host.open((b"file",))
    host.unlink((b"file",))
    file.unlinked = True
    assert read(file) == b"inside"
