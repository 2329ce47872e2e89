"""fs/jbd2 on a journal that the host's mke2fs made; e2fsck says what a power cut would have left."""
from types import SimpleNamespace

import pytest

from glasskernel.block.blk_types import REQ_FUA, REQ_PREFLUSH
from glasskernel.fs.buffer import sb_bread
from glasskernel.fs.jbd2.journal import (
    jbd2_journal_destroy,
    jbd2_journal_force_commit,
    jbd2_journal_load,
    jbd2_journal_set_features,
    jbd2_log_start_commit,
    jbd2_log_wait_commit,
)
from glasskernel.fs.jbd2.revoke import jbd2_journal_revoke
from glasskernel.fs.jbd2.transaction import (
    jbd2__journal_restart,
    jbd2__journal_start,
    jbd2_journal_extend,
    jbd2_journal_stop,
)
from glasskernel.fs.jbd2.types import JBD2_BARRIER
from glasskernel.kernel.sched.core import schedule_timeout_uninterruptible
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.lib.errno import KernelError


@pytest.mark.parametrize("incompat", [0, 2, 8 | 2, 16, 18])
def test_e2fsck_replays_what_was_committed_and_only_that(image, incompat):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        assert jbd2_journal_set_features(journal, 0, 0, incompat)
        image.change(journal, sb, range(5), b"new1")
        jbd2_journal_force_commit(journal)
        image.change(journal, sb, range(3, 8), b"new2")
        cut = bytes(image.disk.data)
        jbd2_journal_force_commit(journal)
        later = bytes(image.disk.data)
        jbd2_journal_destroy(journal)
        return cut, later

    cut, later = image.inside(work)
    assert image.here(cut, 0) == b"old!"            # not in its place yet: in the log
    assert image.recovered(cut)[:9] == [b"new1"] * 5 + [b"old!"] * 4
    assert image.recovered(later)[:9] == [b"new1"] * 3 + [b"new2"] * 5 + [b"old!"]
    assert [image.here(image.disk.data, n) for n in range(9)] == [b"new1"] * 3 + [b"new2"] * 5 + [b"old!"]


def test_our_recovery_does_what_e2fsck_does(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        jbd2_journal_set_features(journal, 0, 0, 16)
        image.change(journal, sb, range(5), b"new1")
        jbd2_journal_force_commit(journal)
        image.change(journal, sb, [4], b"\xc0\x3b\x39\x98")        # looks like a block of the log: escaped
        jbd2_journal_force_commit(journal)
        cut = bytes(image.disk.data)
        jbd2_journal_destroy(journal)
        return cut

    cut = image.inside(work)
    image.disk.data[:] = cut

    def recover(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        jbd2_journal_destroy(journal)

    image.inside(recover)
    expected = image.recovered(cut)
    assert [image.here(image.disk.data, n) for n in range(300)] == expected
    assert expected[:6] == [b"new1"] * 4 + [b"\xc0\x3b\x39\x98", b"old!"]


def test_a_log_that_is_full_is_checkpointed(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        for turn in range(60):
            image.change(journal, sb, range(0, 200), b"%04d" % turn)
            if turn % 2:
                jbd2_journal_force_commit(journal)
        free = journal.j_free
        cut = bytes(image.disk.data)
        jbd2_journal_destroy(journal)
        return free, cut

    free, cut = image.inside(work)
    assert 0 < free < 4096
    assert image.recovered(cut)[:201] == [b"0059"] * 200 + [b"old!"]
    assert image.here(image.disk.data, 0) == b"0059"


def test_the_thread_commits_what_is_older_than_five_seconds(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        image.change(journal, sb, range(2), b"new1")
        before = journal.j_commit_sequence
        schedule_timeout_uninterruptible(6 * 250)
        after = journal.j_commit_sequence
        name = bytes(journal.j_task.comm)
        jbd2_journal_destroy(journal)
        return before, after, name

    before, after, name = image.inside(work)
    assert after == before + 1 and name == b"jbd2/fake-8"


def test_a_revoked_block_is_not_replayed(image):
    """The block was freed, and something else may be there by now that is not in the log."""
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        jbd2_journal_set_features(journal, 0, 0, 18)
        image.change(journal, sb, range(3), b"new1")
        jbd2_journal_force_commit(journal)
        handle = jbd2__journal_start(journal, 4, 0, 0xC40, 0, 0)
        jbd2_journal_revoke(handle, image.victim[1], sb_bread(sb, image.victim[1]))
        jbd2_journal_stop(handle)
        jbd2_journal_force_commit(journal)
        cut = bytes(image.disk.data)
        jbd2_journal_destroy(journal)
        return cut

    cut = image.inside(work)
    assert image.recovered(cut)[:4] == [b"new1", b"old!", b"new1", b"old!"]
    assert [image.here(image.disk.data, n) for n in range(4)] == [b"new1", b"old!", b"new1", b"old!"]


def test_a_buffer_that_changes_while_it_commits_keeps_both_versions(image):
    """A handle that begins during a commit does not wait for it: the commit has a copy of the old bytes."""
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        image.change(journal, sb, range(40), b"new1")
        first = journal.j_running_transaction
        jbd2_log_start_commit(journal, first.t_tid)
        while jbd2_journal_committing(journal, first):
            image.change(journal, sb, range(40), b"new2")
            schedule_timeout_uninterruptible(1)
        jbd2_log_wait_commit(journal, first.t_tid)
        cut = bytes(image.disk.data)
        jbd2_journal_force_commit(journal)
        later = bytes(image.disk.data)
        jbd2_journal_destroy(journal)
        return cut, later

    image.disk.latency_ns = 20_000_000
    cut, later = image.inside(work)
    assert image.recovered(cut)[39] in (b"new1", b"new2")
    assert image.recovered(later)[:40] == [b"new2"] * 40


def jbd2_journal_committing(journal, transaction):
    return transaction in (journal.j_running_transaction, journal.j_committing_transaction)


def test_a_write_that_fails_aborts_the_journal_and_the_superblock_says_so(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        image.change(journal, sb, range(5), b"new1")
        image.disk.bad = set(range(image.journal[1] * 2, image.journal[1] * 2 + 2))
        with pytest.raises(KernelError) as failed:
            jbd2_journal_force_commit(journal)
        assert failed.value.errno == 5
        with pytest.raises(KernelError) as refused:
            image.change(journal, sb, range(5), b"new2")
        assert refused.value.errno == 30
        with pytest.raises(KernelError):
            jbd2_journal_destroy(journal)
        return bytes(image.disk.data)

    cut = image.inside(work)
    superblock = image.journal[0] * 1024
    assert int.from_bytes(cut[superblock + 32 : superblock + 36], "big", signed=True) == -5
    assert image.here(image.disk.data, 0) == b"old!"
    assert b"Aborting journal on device fake-8." in image.kernel.run(["dmesg"]).stdout


def test_a_block_of_the_log_with_a_wrong_checksum_is_not_replayed(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        jbd2_journal_set_features(journal, 0, 0, 18)
        image.change(journal, sb, range(3), b"new1")
        jbd2_journal_force_commit(journal)
        cut = bytearray(image.disk.data)
        jbd2_journal_destroy(journal)
        return cut

    cut = image.inside(work)
    assert cut[image.journal[2] * 1024 :][:4] == b"new1"
    cut[image.journal[3] * 1024 + 8] ^= 1           # the copy of the second block
    image.disk.data[:] = cut

    def recover(sb):
        journal = image.open_journal(sb)
        with pytest.raises(KernelError) as failed:
            jbd2_journal_load(journal)
        with pytest.raises(KernelError):
            jbd2_journal_destroy(journal)
        return failed.value.errno

    assert image.inside(recover) == 5
    assert [image.here(image.disk.data, n) for n in range(3)] == [b"new1", b"old!", b"new1"]


def test_the_events_and_averages_of_a_commit(image):
    """include/trace/events/jbd2.h, /proc/fs/jbd2/<device>/info"""
    seen = []

    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        for name in ("jbd2_handle_start", "jbd2_handle_stats", "jbd2_start_commit", "jbd2_commit_locking",
                     "jbd2_commit_flushing", "jbd2_commit_logging", "jbd2_run_stats", "jbd2_end_commit",
                     "jbd2_write_superblock", "jbd2_checkpoint"):
            tracepoint_probe_register(image.kernel, name, lambda *_arguments, name=name: seen.append(name))
        image.change(journal, sb, range(5), b"new1", sync=True)
        stats = journal.j_stats
        count = stats.ts_tid, stats.run.rs_blocks_logged, stats.run.rs_handle_count
        jbd2_journal_destroy(journal)
        return count

    assert image.inside(work) == (1, 7, 1)          # descriptor, five blocks, commit block
    assert seen[:9] == ["jbd2_handle_start", "jbd2_handle_stats", "jbd2_write_superblock", "jbd2_start_commit",
                        "jbd2_commit_locking", "jbd2_commit_flushing", "jbd2_commit_logging", "jbd2_run_stats",
                        "jbd2_end_commit"]
    assert "jbd2_checkpoint" in seen[9:]


def test_a_power_cut_at_any_write_leaves_whole_handles_only(image):
    """Every handle changes ten blocks; whatever is on the disk when the power goes, recovery finds all ten or none."""
    cuts = []
    disk = image.disk
    end = disk.end

    def count_and_end(bio, write):
        end(bio, write)
        if write:
            count_and_end.writes += 1
            if count_and_end.writes % 23 == 1:
                cuts.append(bytes(disk.data))

    count_and_end.writes = 0

    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        jbd2_journal_set_features(journal, 0, 0, 18)
        disk.end = count_and_end
        for turn in range(40):
            image.change(journal, sb, range(turn % 4 * 10, turn % 4 * 10 + 10), b"%04d" % turn, sync=turn % 3 == 0)
        disk.end = end
        jbd2_journal_destroy(journal)

    image.inside(work)
    assert len(cuts) > 5
    newest = -1
    for cut in cuts:
        found = image.recovered(cut)
        sets = [set(found[start : start + 10]) for start in range(0, 40, 10)]
        assert all(len(texts) == 1 for texts in sets), sets
        turns = [int(text) for texts in sets for text in texts if text != b"old!"]
        assert max(turns, default=-1) >= newest and sorted(turns) == list(range(max(turns, default=-1) + 1))[-4:]
        newest = max(turns, default=-1)


def test_the_commit_block_goes_behind_a_flush_and_is_forced_to_the_medium(image):
    """REQ_PREFLUSH | REQ_FUA, unless the journal has no barriers."""
    flags = []
    before = image.disk.make_request

    def make_request(queue, bio):
        flags.append((bio.bi_sector // 2, bio.bi_opf & (REQ_PREFLUSH | REQ_FUA)))
        before(queue, bio)

    image.disk.disk.queue.make_request_fn = make_request

    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        for barrier in (JBD2_BARRIER, 0):
            journal.j_flags = journal.j_flags & ~JBD2_BARRIER | barrier
            image.change(journal, sb, range(2), b"new1", sync=True)
        jbd2_journal_destroy(journal)

    image.inside(work)
    log = {block: flag for block, flag in flags if block in image.journal[1:9]}
    assert [log[block] for block in image.journal[1:9]] == [0, 0, 0, REQ_PREFLUSH | REQ_FUA, 0, 0, 0, 0]


def test_a_handle_larger_than_a_transaction_is_refused(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        with pytest.raises(KernelError) as failed:
            jbd2__journal_start(journal, 4096 // 4 + 1, 0, 0xC40, 0, 0)
        handle = jbd2__journal_start(journal, 10, 20, 0xC40, 0, 0)
        assert jbd2__journal_start(journal, 10, 0, 0xC40, 0, 0) is handle and handle.h_ref == 2
        assert journal.j_running_transaction.t_outstanding_credits == 30 and journal.j_reserved_credits == 20
        assert jbd2_journal_extend(handle, 5) == 0 and jbd2_journal_extend(handle, 4096) == 1
        tid = handle.h_transaction.t_tid
        jbd2_journal_stop(handle)                   # the nested one
        assert handle.h_ref == 1
        jbd2__journal_restart(handle, 7, 0xC40)
        assert handle.h_transaction.t_tid in (tid, tid + 1) and handle.h_buffer_credits == 7
        jbd2_journal_stop(handle)
        left = journal.j_reserved_credits
        jbd2_journal_destroy(journal)
        return failed.value.errno, left

    assert image.inside(work) == (28, 0)


def test_proc_says_what_transactions_are_like(image):
    def work(sb):
        journal = image.open_journal(sb)
        jbd2_journal_load(journal)
        image.change(journal, sb, range(5), b"new1", sync=True)
        entry = journal.j_proc_entry.subdir[b"info"]
        seq = SimpleNamespace(buf=bytearray(), private=entry.data)
        entry.single_show(seq, None)
        jbd2_journal_destroy(journal)
        return bytes(seq.buf)

    text = image.inside(work)
    assert text.startswith(b"1 transactions (1 requested), each up to 1024 blocks\naverage: \n  0ms waiting for")
    assert text.endswith(b"  1 handles per transaction\n  5 blocks per transaction\n  7 logged blocks per transaction\n")
