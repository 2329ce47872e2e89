"""Damaged ext2, ext3 and ext4 images, each from a seed: what is wrong in them, real e2fsprogs wrote, with fresh checksums.

Three kinds: random bytes (most are caught by checksums, on images without checksums nothing catches them); fields of
super block, group descriptors and inodes with absurd values, through debugfs, which recomputes every checksum, so that the
code behind the checksum meets them; an image that ends too early.
"""
import os
import random
import subprocess

FORMATS = ("-t ext4 -b 1024", "-t ext4 -b 1024 -O ^metadata_csum", "-t ext3 -b 1024", "-t ext2 -b 1024", "-t ext4 -b 4096",
           "-t ext4 -b 2048 -O ^has_journal")
SUPER = ("inodes_count", "blocks_count", "r_blocks_count", "free_blocks_count", "free_inodes_count", "first_data_block",
         "log_block_size", "log_cluster_size", "blocks_per_group", "clusters_per_group", "inodes_per_group", "state", "rev_level",
         "first_ino", "inode_size", "journal_inum", "last_orphan", "desc_size",
         "first_meta_bg", "want_extra_isize", "min_extra_isize", "log_groups_per_flex", "reserved_gdt_blocks", "errors",
         "feature_compat", "feature_incompat", "feature_ro_compat", "checksum_type", "backup_bgs[0]", "kbytes_written")
GROUP = ("block_bitmap", "inode_bitmap", "inode_table", "free_blocks_count", "free_inodes_count", "used_dirs_count", "flags",
         "itable_unused")
INODE = ("mode", "size", "links_count", "blocks", "flags", "extra_isize", "file_acl", "generation", "size_high",
         *(f"block[{i}]" for i in (*range(12), "IND", "DIND", "TIND")))
ODD = (0, 1, 2, 3, 7, 8, 10, 11, 12, 127, 128, 255, 256, 1023, 1024, 8191, 8192, 8193, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
       0xF30A, 0x1F30A, 0x5F30A, 0x4F30A, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
UUID = "00000000-0000-4000-8000-000000000003"
# Mounts one, reads it, changes it.
WALK = """mkdir -p /mnt; mount -t %s -o errors=continue /dev/sda /mnt || exit 0
cd /mnt; ls -laR > /tmp/list; cat long sparse d/* many/*1 > /dev/null; echo new > new; echo more >> long; echo y > sparse
mkdir n; mv long n; rm -rf many; ln -s z n/z; truncate -s 5 n/long; sync; cd /; umount /mnt"""


def fill(directory):
    """The tree that is in every image: long and short files, a big directory, links of both kinds."""
    (directory / "d" / "e").mkdir(parents=True)
    (directory / "many").mkdir()
    for i in range(200):
        (directory / "many" / f"a name that is not so short {i}").write_text(str(i))
    (directory / "long").write_bytes(random.Random(1).randbytes(150_000))
    with (directory / "sparse").open("wb") as f:
        for i in range(12):
            f.seek(i * 16384)
            f.write(b"x" * 1024)
    (directory / "d" / "slow").symlink_to("x" * 100)
    (directory / "d" / "fast").symlink_to("../long")


def make_images(directory):
    """One image of each format, the same ones every time."""
    fill(directory / "tree")
    paths = []
    for number, options in enumerate(FORMATS):
        paths.append(directory / f"{number}.img")
        subprocess.run(["mke2fs", "-q", "-F", *options.split(), "-U", UUID, "-E", f"hash_seed={UUID}", "-d", str(directory / "tree"),
                        str(paths[-1]), "8M"], check=True, env={**os.environ, "E2FSPROGS_FAKE_TIME": "1568577600"})
    return paths


def commands(dice):
    """Lines for debugfs -w: one to three fields of one kind, so that the image often still mounts."""
    kind = dice.choice(("super", "group", "inode", "inode", "inode", "inode"))
    for _ in range(dice.randint(1, 3)):
        value = dice.choice(ODD) if dice.random() < 0.8 else dice.getrandbits(32)
        if kind == "super":
            yield f"set_super_value {dice.choice(SUPER)} {value}"
        elif kind == "group":
            yield f"set_block_group 0 {dice.choice(GROUP)} {value}"
        else:
            number = dice.choice((2, 2, 7, 8, *range(11, 20)))
            yield f"set_inode_field <{number}> {dice.choice(INODE)} {value}"


def mutate(path, seed):
    """Damages an image. Says what it did."""
    dice = random.Random(seed)
    kind = dice.choice(("fields", "fields", "fields", "bytes", "short"))
    if kind == "fields":
        lines = list(commands(dice))
        # The raw inode stays what we ask for: debugfs may refuse a field, never the others.
        subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", str(path)], input="\n".join(lines) + "\n", text=True,
                       capture_output=True, check=False, timeout=20)
        return "; ".join(lines)
    if kind == "short":
        size = dice.randrange(2048, 1 << 20)
        with path.open("r+b") as f:
            f.truncate(size)
        return f"ends at {size}"
    flips = [(dice.randrange(1024, 1 << 20), dice.randbytes(dice.choice((1, 2, 4, 32)))) for _ in range(dice.choice((1, 10, 60)))]
    with path.open("r+b") as f:
        for position, data in flips:
            f.seek(position)
            f.write(data)
    return f"{len(flips)} places overwritten, the first at {flips[0][0]}"
