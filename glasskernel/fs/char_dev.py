"""Character devices: which driver answers for which device number.

Linux: fs/char_dev.c (5.3). Same: regions of minors by major, alloc_chrdev_region from 254 down to 234 and
    then 511 to 384, chrdev_open() that puts the driver's table into the file. Differs: cdevs are kept in a
    dictionary by major instead of a kobj_map.
Owns: Kernel.chrdevs.
Invariants: regions of one major do not overlap; a cdev lies inside a region that its driver registered.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import MAJOR, MINOR, MKDEV, FileOperations
from glasskernel.lib.errno import EBUSY, EINVAL, ENXIO, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

CHRDEV_MAJOR_MAX = 512
CHRDEV_MAJOR_DYN_END = 234
CHRDEV_MAJOR_DYN_EXT_START, CHRDEV_MAJOR_DYN_EXT_END = 511, 384


@slotted
class CharDeviceStruct:
    """struct char_device_struct: minors that belong to a driver."""

    major: int
    baseminor: int
    minorct: int
    name: bytes
    cdev: Cdev | None = None


@slotted
class Cdev:
    """struct cdev: a table that answers for count device numbers from dev on."""

    ops: FileOperations
    dev: int = 0
    count: int = 0


@slotted
class ChrdevState:
    """Kernel.chrdevs. regions: by major, in the order of their minors. cdevs: by major."""

    regions: dict[int, list[CharDeviceStruct]] = field(default_factory=dict)
    cdevs: dict[int, list[Cdev]] = field(default_factory=dict)


@notrace
def chrdev_init(kernel: Kernel) -> None:
    """Makes the empty table. First of all that registers devices."""
    kernel.chrdevs = ChrdevState()


@notrace
def find_dynamic_major(state: ChrdevState) -> int:
    """A major nobody has. Errors: EBUSY."""
    for major in range(254, CHRDEV_MAJOR_DYN_END - 1, -1):
        if major not in state.regions:
            return major
    for major in range(CHRDEV_MAJOR_DYN_EXT_START, CHRDEV_MAJOR_DYN_EXT_END - 1, -1):
        if major not in state.regions:
            return major
    raise KernelError(EBUSY)


def __register_chrdev_region(kernel: Kernel, major: int, baseminor: int, count: int,
                             name: bytes) -> CharDeviceStruct:
    """Takes minors [baseminor, baseminor + count) of a major; 0: of a free one.

    Errors: EBUSY if somebody has one of them, EINVAL for a major or minor out of range.
    """
    state = kernel.chrdevs
    if major == 0:
        major = find_dynamic_major(state)
    if major >= CHRDEV_MAJOR_MAX or count > (1 << 20) - baseminor:
        raise KernelError(EINVAL)
    regions = state.regions.setdefault(major, [])
    for other in regions:
        if baseminor < other.baseminor + other.minorct and other.baseminor < baseminor + count:
            raise KernelError(EBUSY)
    region = CharDeviceStruct(major, baseminor, count, name)
    regions.append(region)
    regions.sort(key=lambda r: r.baseminor)
    return region


def register_chrdev_region(kernel: Kernel, dev: int, count: int, name: bytes) -> None:
    """Device numbers [dev, dev + count) for a driver that knows them. Errors: EBUSY, EINVAL."""
    __register_chrdev_region(kernel, MAJOR(dev), MINOR(dev), count, name)


def alloc_chrdev_region(kernel: Kernel, baseminor: int, count: int, name: bytes) -> int:
    """Takes count minors of a free major; answers the first device number. Errors: EBUSY."""
    return MKDEV(__register_chrdev_region(kernel, 0, baseminor, count, name).major, baseminor)


def unregister_chrdev_region(kernel: Kernel, dev: int, count: int) -> None:
    """Gives a region back."""
    regions = kernel.chrdevs.regions.get(MAJOR(dev), [])
    regions[:] = [r for r in regions if (r.baseminor, r.minorct) != (MINOR(dev), count)]
    if not regions:
        kernel.chrdevs.regions.pop(MAJOR(dev), None)


def __register_chrdev(kernel: Kernel, major: int, baseminor: int, count: int, name: bytes,
                      fops: FileOperations) -> int:
    """A region and a cdev for all of it; answers the major. Errors: EBUSY, EINVAL."""
    region = __register_chrdev_region(kernel, major, baseminor, count, name)
    region.cdev = cdev = Cdev(fops)
    cdev_add(kernel, cdev, MKDEV(region.major, baseminor), count)
    return region.major


@notrace
def register_chrdev(kernel: Kernel, major: int, name: bytes, fops: FileOperations) -> int:
    """All 256 minors of a major (0: any free one). Answers the major. Errors: EBUSY, EINVAL."""
    return __register_chrdev(kernel, major, 0, 256, name, fops)


def cdev_add(kernel: Kernel, cdev: Cdev, dev: int, count: int) -> None:
    """From now on open(2) of these numbers reaches the driver."""
    cdev.dev = dev
    cdev.count = count
    kernel.chrdevs.cdevs.setdefault(MAJOR(dev), []).append(cdev)


def cdev_del(kernel: Kernel, cdev: Cdev) -> None:
    """New opens get ENXIO; open files stay."""
    kernel.chrdevs.cdevs[MAJOR(cdev.dev)].remove(cdev)


@notrace
def cdev_lookup(kernel: Kernel, dev: int) -> Cdev | None:
    """kobj_lookup(): the smallest range around dev."""
    best: Cdev | None = None
    for cdev in kernel.chrdevs.cdevs.get(MAJOR(dev), ()):
        if cdev.dev <= dev < cdev.dev + cdev.count and (best is None or cdev.count < best.count):
            best = cdev
    return best


def chrdev_open(inode: Inode, file: File) -> None:
    """Hands the file over to the driver of inode.i_rdev. Errors: ENXIO without one; the driver's own."""
    cdev = inode.i_cdev
    if cdev is None:
        cdev = cdev_lookup(inode.i_sb.kernel, inode.i_rdev)
        if cdev is None:
            raise KernelError(ENXIO)
        inode.i_cdev = cdev
    file.f_op = cdev.ops
    cdev.ops.open(inode, file)


def chrdev_show(kernel: Kernel) -> list[tuple[int, bytes]]:
    """(major, name) of all regions as /proc/devices lists them."""
    found = []
    for major in sorted(kernel.chrdevs.regions):
        for region in kernel.chrdevs.regions[major]:
            found.append((major, region.name))
    return found


def_chr_fops = FileOperations(open=chrdev_open)
