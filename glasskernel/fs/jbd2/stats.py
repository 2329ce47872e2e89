"""/proc/fs/jbd2/<device>/info: averages of a journal's transactions.

Linux: a part of fs/jbd2/journal.c (5.3). Owns: j_proc_entry.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_single_data, proc_mkdir, remove_proc_entry
from glasskernel.fs.seq_file import seq_printf
from glasskernel.kernel.time.timer import jiffies_to_msecs
from glasskernel.lib.errno import KernelError

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal
    from glasskernel.fs.seq_file import SeqFile


def jbd2_seq_info_show(seq: SeqFile, v: Any) -> None:
    journal: Journal = seq.private
    stats = journal.j_stats
    count = stats.ts_tid
    seq_printf(seq, b"%d transactions (%d requested), each up to %d blocks\n", count, stats.ts_requested,
               journal.j_max_transaction_buffers)
    if not count:
        return
    run = stats.run
    delay = run.rs_request_delay // stats.ts_requested if stats.ts_requested else 0
    seq_printf(seq, b"average: \n  %dms waiting for transaction\n", jiffies_to_msecs(run.rs_wait // count))
    seq_printf(seq, b"  %dms request delay\n", jiffies_to_msecs(delay))
    seq_printf(seq, b"  %dms running transaction\n", jiffies_to_msecs(run.rs_running // count))
    seq_printf(seq, b"  %dms transaction was being locked\n", jiffies_to_msecs(run.rs_locked // count))
    seq_printf(seq, b"  %dms flushing data (in ordered mode)\n", jiffies_to_msecs(run.rs_flushing // count))
    seq_printf(seq, b"  %dms logging transaction\n", jiffies_to_msecs(run.rs_logging // count))
    seq_printf(seq, b"  %dus average transaction commit time\n", journal.j_average_commit_time // 1000)
    seq_printf(seq, b"  %d handles per transaction\n", run.rs_handle_count // count)
    seq_printf(seq, b"  %d blocks per transaction\n", run.rs_blocks // count)
    seq_printf(seq, b"  %d logged blocks per transaction\n", run.rs_blocks_logged // count)


def jbd2_stats_proc_init(journal: Journal) -> None:
    kernel = journal.kernel
    try:
        journal.j_proc_entry = proc_mkdir(kernel, b"fs/jbd2/" + journal.j_devname.encode())
    except KernelError:
        return
    proc_create_single_data(kernel, b"info", 0o444, journal.j_proc_entry, jbd2_seq_info_show, journal)


def jbd2_stats_proc_exit(journal: Journal) -> None:
    remove_proc_entry(journal.kernel, b"fs/jbd2/" + journal.j_devname.encode(), None)
    journal.j_proc_entry = None
