"""The journal: handles, commits, checkpoints.

Linux: include/trace/events/jbd2.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.events.values import HELPERS
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal, Transaction
    from glasskernel.fs.types import Inode


jbd2 = trace_system("jbd2")


@jbd2.event(
    fields="dev_t dev; int result",
    print_fmt=(
        '"dev %d,%d result %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->result'),
)
def jbd2_checkpoint(journal: Journal, result: int) -> Values:
    return (journal.j_fs_dev.bd_dev, result)


@jbd2.event_class(
    fields="dev_t dev; char sync_commit; int transaction",
    print_fmt=(
        '"dev %d,%d transaction %d sync %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->transaction, REC->sync_commit'),
)
def jbd2_commit(journal: Journal, commit_transaction: Transaction) -> Values:
    return (journal.j_fs_dev.bd_dev, commit_transaction.t_synchronous_commit, commit_transaction.t_tid)


jbd2_start_commit = jbd2_commit.define("jbd2_start_commit")
jbd2_commit_locking = jbd2_commit.define("jbd2_commit_locking")
jbd2_commit_flushing = jbd2_commit.define("jbd2_commit_flushing")
jbd2_commit_logging = jbd2_commit.define("jbd2_commit_logging")
jbd2_drop_transaction = jbd2_commit.define("jbd2_drop_transaction")


@jbd2.event(
    fields="dev_t dev; char sync_commit; int transaction; int head",
    print_fmt=(
        '"dev %d,%d transaction %d sync %d head %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->transaction, REC->sync_commit, REC->head'),
)
def jbd2_end_commit(journal: Journal, commit_transaction: Transaction) -> Values:
    return (journal.j_fs_dev.bd_dev, commit_transaction.t_synchronous_commit, commit_transaction.t_tid,
            journal.j_tail_sequence)


@jbd2.event(
    fields="dev_t dev; ino_t ino",
    print_fmt=(
        '"dev %d,%d ino %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long) REC->ino'),
)
def jbd2_submit_inode_data(inode: Inode) -> Values:
    return (inode.i_sb.s_dev, inode.i_ino)


@jbd2.event(
    fields="dev_t dev; unsigned long tid; unsigned int type; unsigned int line_no; int requested_blocks",
    print_fmt=(
        '"dev %d,%d tid %lu type %u line_no %u requested_blocks %d", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tid, REC->type, REC->line_no, '
        'REC->requested_blocks'),
)
def jbd2_handle_start(dev: int, tid: int, type_: int, line_no: int, requested_blocks: int) -> Values:
    return (dev, tid, type_, line_no, requested_blocks)


@jbd2.event(
    fields=(
        "dev_t dev; unsigned long tid; unsigned int type; unsigned int line_no; int buffer_credits; "
        "int requested_blocks"),
    print_fmt=(
        '"dev %d,%d tid %lu type %u line_no %u buffer_credits %d requested_blocks %d", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tid, '
        'REC->type, REC->line_no, REC->buffer_credits, REC->requested_blocks'),
)
def jbd2_handle_extend(dev: int, tid: int, type_: int, line_no: int, buffer_credits: int,
                       requested_blocks: int) -> Values:
    return (dev, tid, type_, line_no, buffer_credits, requested_blocks)


@jbd2.event(
    fields=(
        "dev_t dev; unsigned long tid; unsigned int type; unsigned int line_no; int interval; int sync; "
        "int requested_blocks; int dirtied_blocks"),
    print_fmt=(
        '"dev %d,%d tid %lu type %u line_no %u interval %d sync %d requested_blocks %d dirtied_blocks %d", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tid, '
        'REC->type, REC->line_no, REC->interval, REC->sync, REC->requested_blocks, REC->dirtied_blocks'),
)
def jbd2_handle_stats(dev: int, tid: int, type_: int, line_no: int, interval: int, sync: int, requested_blocks: int,
                      dirtied_blocks: int) -> Values:
    return (dev, tid, type_, line_no, interval, sync, requested_blocks, dirtied_blocks)


@jbd2.event(
    fields=(
        "dev_t dev; unsigned long tid; unsigned long wait; unsigned long request_delay; unsigned long running; "
        "unsigned long locked; unsigned long flushing; unsigned long logging; __u32 handle_count; __u32 blocks; "
        "__u32 blocks_logged"),
    print_fmt=(
        '"dev %d,%d tid %lu wait %u request_delay %u running %u locked %u flushing %u logging %u handle_count %u '
        'blocks %u blocks_logged %u", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tid, jiffies_to_msecs(REC->wait), '
        'jiffies_to_msecs(REC->request_delay), jiffies_to_msecs(REC->running), jiffies_to_msecs(REC->locked), '
        'jiffies_to_msecs(REC->flushing), jiffies_to_msecs(REC->logging), REC->handle_count, REC->blocks, '
        'REC->blocks_logged'),
    helpers=HELPERS,
)
def jbd2_run_stats(dev: int, tid: int, stats: Any) -> Values:
    """stats: struct transaction_run_stats_s"""
    return (dev, tid, stats.rs_wait, stats.rs_request_delay, stats.rs_running, stats.rs_locked, stats.rs_flushing,
            stats.rs_logging, stats.rs_handle_count, stats.rs_blocks, stats.rs_blocks_logged)


@jbd2.event(
    fields="dev_t dev; unsigned long tid; unsigned long chp_time; __u32 forced_to_close; __u32 written; __u32 dropped",
    print_fmt=(
        '"dev %d,%d tid %lu chp_time %u forced_to_close %u written %u dropped %u", '
        '((unsigned int) ((REC->dev) >> 20)), ((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tid, '
        'jiffies_to_msecs(REC->chp_time), REC->forced_to_close, REC->written, REC->dropped'),
    helpers=HELPERS,
)
def jbd2_checkpoint_stats(dev: int, tid: int, stats: Any) -> Values:
    """stats: struct transaction_chp_stats_s"""
    return (dev, tid, stats.cs_chp_time, stats.cs_forced_to_close, stats.cs_written, stats.cs_dropped)


@jbd2.event(
    fields="dev_t dev; tid_t tail_sequence; tid_t first_tid; unsigned long block_nr; unsigned long freed",
    print_fmt=(
        '"dev %d,%d from %u to %u offset %lu freed %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->tail_sequence, REC->first_tid, REC->block_nr, '
        'REC->freed'),
)
def jbd2_update_log_tail(journal: Journal, first_tid: int, block_nr: int, freed: int) -> Values:
    return (journal.j_fs_dev.bd_dev, journal.j_tail_sequence, first_tid, block_nr, freed)


@jbd2.event(
    fields="dev_t dev; int write_op",
    print_fmt=(
        '"dev %d,%d write_op %x", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->write_op'),
)
def jbd2_write_superblock(journal: Journal, write_op: int) -> Values:
    return (journal.j_fs_dev.bd_dev, write_op)


@jbd2.event(
    fields="dev_t dev; unsigned long stall_ms",
    print_fmt=(
        '"dev %d,%d stall_ms %lu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->stall_ms'),
)
def jbd2_lock_buffer_stall(dev: int, stall_ms: int) -> Values:
    return (dev, stall_ms)
