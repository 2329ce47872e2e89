"""What the command line reads of the guest's files, and how a tar archive becomes a root."""

import io
import os
import tarfile

import pytest

from glasskernel.cli.guest_files import GuestFiles, look_up_user
from glasskernel.cli.unpack import BadArchive, unpack_tar


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/var/www:/bin/sh\n")
    (root / "usr/bin/tool").write_bytes(b"tool")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "abs").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../../../../../etc/passwd")
    (root / "loop").symlink_to("loop")
    (tmp_path / "outside").write_text("secret")
    (root / "out").symlink_to(tmp_path / "outside")
    return root


def test_paths_are_the_guests(root):
    files = GuestFiles(str(root))
    passwd = (root / "etc/passwd").read_bytes()
    for path in ("/etc/passwd", "/abs", "/up", "/etc/../etc/./passwd", "/../etc/passwd"):
        assert files.read(path) == (passwd, len(passwd)), path
    assert files.read("passwd", cwd="/etc") == (passwd, len(passwd))
    assert files.read("/bin/tool", 2) == (b"to", 4)


def test_nothing_outside_the_root_is_read(root):
    files = GuestFiles(str(root))
    assert [files.read(path) for path in ("/out", "/loop", "/etc", "/", "/nowhere")] == [None] * 5


def test_shares_are_seen_where_the_guest_has_them(root, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "f").write_text("here")
    files = GuestFiles(str(root), [(str(shared), "/mnt/x", False)])
    assert files.read("/mnt/x/f") == (b"here", 4)


def test_which_searches_as_execvp(root):
    files = GuestFiles(str(root))
    assert files.which("tool", "/sbin:/bin") == "/bin/tool"
    assert files.which("./tool", "/bin") == "./tool"
    assert files.which("absent", "/bin") == "absent"
    assert files.which("passwd", "/etc") == "passwd", "not executable"


def test_users_are_looked_up(root):
    passwd = (root / "etc/passwd").read_bytes()
    assert look_up_user(passwd, "www") == (33, 34, "/var/www")
    assert look_up_user(passwd, "ww") is None
    assert look_up_user(b"bad:x:abc\nno\n\xff:x:1:1::/:", "bad") is None


def member(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, len(data), mode, link
    info.uid, info.gid = os.getuid(), os.getgid()
    return info, io.BytesIO(data)


def unpack(tmp_path, *members):
    archive, folder = tmp_path / "a.tar", tmp_path / "unpacked"
    folder.mkdir()
    with tarfile.open(archive, "w") as tar:
        for info, data in members:
            tar.addfile(info, data)
    unpack_tar(str(archive), str(folder))
    return folder


def test_archive_with_everything(tmp_path):
    folder = unpack(
        tmp_path,
        member("./etc", tarfile.DIRTYPE, mode=0o500),
        member("./etc/f", data=b"old"),
        member("./etc/f", data=b"new", mode=0o4755),
        member("/a/b/c", data=b"deep"),
        member("s", tarfile.SYMTYPE, link="/etc/f"),
        member("h", tarfile.LNKTYPE, link="etc/f"),
        member("dev/null", tarfile.CHRTYPE),
    )
    assert (folder / "etc/f").read_bytes() == b"new"
    assert (folder / "etc/f").stat().st_mode & 0o7777 == 0o4755
    assert (folder / "etc").stat().st_mode & 0o777 == 0o500
    assert (folder / "a/b/c").read_bytes() == b"deep"
    assert os.readlink(folder / "s") == "/etc/f"
    assert os.path.samefile(folder / "h", folder / "etc/f")
    assert not (folder / "dev/null").exists()


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil", data=b"x")],
        [member("l", tarfile.SYMTYPE, link=".."), member("l/evil", data=b"x")],
        [member("h", tarfile.LNKTYPE, link="../secret")],
        [member("h", tarfile.LNKTYPE, link="/etc/hostname")],
    ],
)
def test_archive_that_reaches_outside_is_refused(tmp_path, members):
    (tmp_path / "secret").write_text("s")
    with pytest.raises(BadArchive):
        unpack(tmp_path, *members)
    assert not (tmp_path / "evil").exists()


def test_broken_archive_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"ustar" * 300)
    with pytest.raises(BadArchive):
        unpack_tar(str(tmp_path / "a.tar"), str(tmp_path))
