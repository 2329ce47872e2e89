"""What real programs do on an ext4 disk mounted on /mnt: shell text, in a quick size and a whole one.

Each script exits 0 only if the program itself found everything right.
"""

FIO_JOBS = {
    "sync": "--ioengine=sync --rw=write --bs=16k",
    "psync": "--ioengine=psync --rw=randwrite --bs=4k --fsync=32",
    "pvsync2": "--ioengine=pvsync2 --rw=randrw --bs=4k",
    "mmap": "--ioengine=mmap --rw=randwrite --bs=4k",
    "direct": "--ioengine=psync --rw=randwrite --bs=4k --direct=1",
    "libaio": "--ioengine=libaio --rw=randwrite --bs=4k --iodepth=16",
    "libaio-direct": "--ioengine=libaio --rw=randrw --bs=4k --iodepth=16 --direct=1",
    "libaio-odd": "--ioengine=libaio --rw=randwrite --bsrange=512-64k --iodepth=8 --direct=1 --fallocate=none "
                  "--verify_backlog=16",
    "posixaio": "--ioengine=posixaio --rw=randwrite --bs=8k --iodepth=4",
    "osync": "--ioengine=psync --rw=write --bs=32k --sync=1",
    "splice": "--ioengine=splice --rw=write --bs=4k",
}


def fio(job: str, size: str) -> str:
    """fio writes, reads again and compares checksums."""
    return (f"cd /mnt && fio --name={job} --directory=/mnt --size={size} --verify=crc32c --verify_fatal=1 "
            f"{FIO_JOBS[job]} > /tmp/out 2>&1 || {{ cat /tmp/out; exit 1; }}; grep -q 'err= 0' /tmp/out && rm /mnt/{job}*")


def git(files: int) -> str:
    """A repository: add, commit, rename, gc, fsck, clone; the clone is the same."""
    return f"""
set -e
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1
git config --global user.email us@example.org; git config --global user.name us; git config --global init.defaultBranch main
cd /mnt; mkdir origin; cd origin; git init -q
for i in $(seq {files}); do mkdir -p d$((i % 20)); seq $i $((i + 100)) > d$((i % 20))/f$i; done
git add .; git commit -qm one
for i in $(seq 1 7 {files}); do echo more >> d$((i % 20))/f$i; done
git mv d1 e1; git rm -rqf d2; git commit -qam two
git gc -q; git fsck --strict
cd ..; git clone -q origin clone; cd clone
test -z "$(git status --short)"; test $(git log --oneline | wc -l) = 2
diff -r --exclude .git ../origin .; git reset -q --hard HEAD~1; test $(ls d2 | wc -l) = {len(range(2, files + 1, 20))}
cd /mnt; rm -r origin clone
"""


def tar(source: str) -> str:
    """Out of the host's library, into a tar file on the disk, out of it again: the same checksums."""
    return f"""
set -e
cd {source}; find . -type f ! -name '*.pyc' ! -type l | LC_ALL=C sort > /tmp/list
tr '\\n' '\\0' < /tmp/list | xargs -0 sha1sum > /tmp/sums
tar -cf /mnt/lib.tar -T /tmp/list
mkdir /mnt/out; cd /mnt/out; tar -xf ../lib.tar
sync; echo 3 > /proc/sys/vm/drop_caches
sha1sum --quiet -c /tmp/sums; test $(find . -type f | wc -l) = $(wc -l < /tmp/list)
tar -df ../lib.tar
cd /mnt; rm -r out lib.tar
"""


STRESSORS = {
    "hdd": "--hdd-ops 40 --hdd-bytes 2m",
    "iomix": "--iomix-ops 20 --iomix-bytes 1m",
    "dentry": "--dentry-ops 200 --dentries 100",
    "dir": "--dir-ops 200",
    "file-ioctl": "--file-ioctl-ops 20",
    "rename": "--rename-ops 200",
    "fallocate": "--fallocate-ops 10 --fallocate-bytes 1m",
    "xattr": "--xattr-ops 3",
}


def stress(name: str, options: str, instances: int = 1) -> str:
    """stress-ng --verify on the disk."""
    return (f"stress-ng --temp-path /mnt --verify --{name} {instances} {options} > /tmp/out 2>&1 || {{ cat /tmp/out; exit 1; }}"
            "; ! grep -i 'fail\\|mismatch' /tmp/out && test \"$(ls /mnt)\" = lost+found")
