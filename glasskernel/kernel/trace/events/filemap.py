"""The page cache: pages come and go, errors of write-back.

Linux: include/trace/events/filemap.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import HELPERS, kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.mm.types import AddressSpace


@notrace
def _inode(mapping: AddressSpace) -> tuple[int, int]:
    """(number, device) of the inode that the pages belong to."""
    host = mapping.host
    return (host.i_ino, host.i_sb.s_dev) if host is not None else (0, 0)


filemap = trace_system("filemap")


@filemap.event_class(
    fields="unsigned long pfn; unsigned long i_ino; unsigned long index; dev_t s_dev",
    print_fmt=(
        '"dev %d:%d ino %lx page=%p pfn=%lu ofs=%lu", ((unsigned int) ((REC->s_dev) >> 20)), '
        '((unsigned int) ((REC->s_dev) & ((1U << 20) - 1))), REC->i_ino, '
        '(((struct page *)vmemmap_base) + (REC->pfn)), REC->pfn, REC->index << 12'),
    helpers=HELPERS,
)
def mm_filemap_op_page_cache(pfn: int, mapping: AddressSpace, index: int) -> Values:
    ino, dev = _inode(mapping)
    return (pfn, ino, index, dev)


mm_filemap_delete_from_page_cache = mm_filemap_op_page_cache.define("mm_filemap_delete_from_page_cache", irqs_off=True)
mm_filemap_add_to_page_cache = mm_filemap_op_page_cache.define("mm_filemap_add_to_page_cache")


@filemap.event(
    fields="unsigned long i_ino; dev_t s_dev; errseq_t errseq",
    print_fmt=(
        '"dev=%d:%d ino=0x%lx errseq=0x%x", ((unsigned int) ((REC->s_dev) >> 20)), '
        '((unsigned int) ((REC->s_dev) & ((1U << 20) - 1))), REC->i_ino, REC->errseq'),
)
def filemap_set_wb_err(mapping: AddressSpace, eseq: int) -> Values:
    return (*_inode(mapping), eseq)


@filemap.event(
    fields="struct file * file; unsigned long i_ino; dev_t s_dev; errseq_t old; errseq_t new",
    print_fmt=(
        '"file=%p dev=%d:%d ino=0x%lx old=0x%x new=0x%x", REC->file, ((unsigned int) ((REC->s_dev) >> 20)), '
        '((unsigned int) ((REC->s_dev) & ((1U << 20) - 1))), REC->i_ino, REC->old, REC->new'),
)
def file_check_and_advance_wb_err(file: File, old: int) -> Values:
    return (kaddr_of(file), *_inode(file.f_mapping), old, file.f_wb_err)
