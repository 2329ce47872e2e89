"""Wait queues, completions, mutexes and reader-writer semaphores: nobody sleeps for ever, nobody gets in twice."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import (
    Mutex,
    mutex_lock,
    mutex_lock_interruptible,
    mutex_trylock,
    mutex_unlock,
)
from glasskernel.kernel.locking.rwsem import (
    RwSemaphore,
    down_read,
    down_read_trylock,
    down_write,
    down_write_killable,
    downgrade_write,
    up_read,
    up_write,
)
from glasskernel.kernel.locking.semaphore import Semaphore, down, down_timeout, down_trylock, up
from glasskernel.kernel.sched.completion import (
    Completion,
    complete,
    complete_all,
    completion_done,
    wait_for_completion,
    wait_for_completion_interruptible,
    wait_for_completion_timeout,
)
from glasskernel.kernel.sched.core import wake_up_process, yield_
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    WaitQueueHead,
    add_wait_queue,
    add_wait_queue_exclusive,
    finish_wait,
    prepare_to_wait,
    remove_wait_queue,
    wait_event,
    wait_event_interruptible,
    wait_event_interruptible_exclusive,
    wait_event_interruptible_timeout,
    wake_up,
    wake_up_all,
    wake_up_interruptible,
    wake_up_interruptible_poll,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING, TIF_SIGPENDING
from glasskernel.lib.errno import EINTR, ERESTARTSYS, ETIME, KernelError, Restart
from tests.sched.sim import Sim, ms


def send_signal(task):
    """What signal_wake_up() does."""
    task.ti_flags |= TIF_SIGPENDING
    task.pending.signal = 1 << 9
    wake_up_process(task)


def test_a_wakeup_between_the_test_and_the_sleep_is_not_lost(sim):
    """Queued first, tested second: the sleeper that is woken before schedule() does not sleep."""
    s = sim()
    wq, log = WaitQueueHead(), []

    def sleeper():
        entry = WaitQueueEntry()
        prepare_to_wait(wq, entry, TASK_INTERRUPTIBLE)
        wake_up(wq)
        assert register.task.state == TASK_RUNNING
        from glasskernel.kernel.sched.core import schedule

        schedule()
        finish_wait(wq, entry)
        log.append("awake")

    s.spawn(sleeper)
    s.run()
    assert log == ["awake"]


@settings(max_examples=30, deadline=None)
@given(cpus=st.integers(1, 4), producers=st.integers(1, 3), consumers=st.integers(1, 4), items=st.integers(1, 12),
       burns=st.lists(st.integers(0, 300_000), min_size=8, max_size=8))
def test_no_wakeup_is_lost(cpus, producers, consumers, items, burns):
    """Every item is consumed and everybody ends, however the tasks interleave."""
    s = Sim(cpus=cpus)
    wq, box, taken = WaitQueueHead(), [], []
    state = {"producing": producers}

    def producer(number):
        for i in range(items):
            s.burn(burns[(number + i) % 8])
            box.append((number, i))
            wake_up_interruptible(wq)
        state["producing"] -= 1
        wake_up_all(wq)

    def consumer(number):
        while True:
            wait_event_interruptible_exclusive(wq, lambda: box or not state["producing"])
            if not box:
                wake_up_all(wq)
                return
            taken.append(box.pop(0))
            s.burn(burns[number])

    for n in range(consumers):
        s.spawn(lambda n=n: consumer(n))
    for n in range(producers):
        s.spawn(lambda n=n: producer(n))
    s.run()
    alive = [t for t in s.tasks if not t.exit_state]
    s.close()
    assert not alive
    assert sorted(taken) == [(p, i) for p in range(producers) for i in range(items)]


def test_wake_up_wakes_all_common_and_one_exclusive_waiter(sim):
    s = sim()
    wq, woken, ready = WaitQueueHead(), [], []

    def waiter(name, exclusive):
        wait = wait_event_interruptible_exclusive if exclusive else wait_event_interruptible
        wait(wq, lambda: ready)
        woken.append(name)

    for i in range(3):
        s.spawn(lambda i=i: waiter(f"x{i}", True))
        s.run(ms(1))
        s.spawn(lambda i=i: waiter(f"c{i}", False))
        s.run(ms(1))
    ready.append(1)
    wake_up(wq)
    s.run(ms(10))
    assert sorted(woken) == ["c0", "c1", "c2", "x0"]
    wake_up(wq)
    s.run(ms(10))
    assert woken[-1] == "x1"


def test_a_wait_function_sees_the_key_and_may_stop_the_wakeup():
    wq, seen = WaitQueueHead(), []

    def func(entry, mode, flags, key):
        seen.append((entry.data, key))
        return -1 if entry.data == "b" else 0

    class Nobody:
        pass

    for name in "cba":
        add_wait_queue(wq, WaitQueueEntry(func, Nobody(), name))
    wake_up_interruptible_poll(wq, 0x41)
    assert seen == [("a", 0x41), ("b", 0x41)]


def test_an_entry_that_another_function_takes_off_is_not_called():
    wq, seen = WaitQueueHead(), []
    second = WaitQueueEntry(lambda *a: seen.append("second") or 0, object())

    def first(entry, mode, flags, key):
        seen.append("first")
        remove_wait_queue(wq, second)
        return 0

    add_wait_queue(wq, second)
    add_wait_queue(wq, WaitQueueEntry(first, object()))
    wake_up(wq)
    assert seen == ["first"]


def test_exclusive_waiters_stand_behind_common_ones():
    wq = WaitQueueHead()
    order = []
    for name, add in (("x", add_wait_queue_exclusive), ("c", add_wait_queue), ("y", add_wait_queue_exclusive)):
        add(wq, WaitQueueEntry(lambda e, *a: order.append(e.data) or 0, object(), name))
    wake_up_all(wq)
    assert order == ["c", "x", "y"]


def test_a_signal_ends_an_interruptible_wait(sim):
    s = sim()
    wq, result = WaitQueueHead(), []

    def sleeper():
        try:
            wait_event_interruptible(wq, lambda: False)
        except Restart as restart:
            result.append(restart.errno)
        result.append(len(wq.entries))

    target = s.spawn(sleeper)
    s.spawn(lambda: (s.burn(ms(1)), send_signal(target)))
    s.run()
    assert result == [ERESTARTSYS, 0]


def test_a_signal_does_not_end_an_uninterruptible_wait(sim):
    s = sim()
    wq, ready, result = WaitQueueHead(), [], []
    target = s.spawn(lambda: result.append(wait_event(wq, lambda: ready)))
    s.run(ms(1))
    send_signal(target)
    s.run(ms(5))
    assert not result
    ready.append(1)
    wake_up(wq)
    s.run(ms(5))
    assert result == [None]


def test_a_wait_with_timeout_reports_the_rest(sim):
    s = sim(cpus=2)
    wq, ready, result = WaitQueueHead(), [], []

    def sleeper():
        result.append(wait_event_interruptible_timeout(wq, lambda: ready, 5))
        result.append(wait_event_interruptible_timeout(wq, lambda: ready, 100))

    s.spawn(sleeper)

    def waker():
        s.burn(ms(60))
        ready.append(1)
        wake_up(wq)

    s.spawn(waker)
    s.run()
    assert result[0] == 0
    assert 85 <= result[1] <= 95


# ---- completions ----------------------------------------------------------------------------------------------
def test_each_complete_lets_one_waiter_go(sim):
    s = sim()
    x, gone = Completion(), []
    for i in range(3):
        s.spawn(lambda i=i: (wait_for_completion(x), gone.append(i)))
        s.run(ms(1))
    complete(x)
    s.run(ms(1))
    assert gone == [0]
    complete_all(x)
    s.run(ms(1))
    assert gone == [0, 1, 2]
    assert completion_done(x)


def test_a_completion_before_the_wait_is_remembered(sim):
    s = sim()
    x, gone = Completion(), []
    complete(x)
    s.spawn(lambda: (wait_for_completion(x), gone.append(1)))
    s.run()
    assert gone == [1]
    assert not completion_done(x)


def test_waiting_for_a_completion_can_time_out_or_be_interrupted(sim):
    s = sim()
    x, result = Completion(), []

    def waiter():
        result.append(wait_for_completion_timeout(x, 3))
        try:
            wait_for_completion_interruptible(x)
        except Restart:
            result.append("signal")

    target = s.spawn(waiter)
    s.run(ms(100))
    send_signal(target)
    s.run(ms(100))
    assert result == [0, "signal"]
    assert not x.wait.entries


# ---- locks ------------------------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(cpus=st.integers(1, 4), tasks=st.integers(2, 6), burns=st.lists(st.integers(0, 400_000), min_size=6, max_size=6))
def test_a_mutex_has_one_owner_and_everybody_gets_it(cpus, tasks, burns):
    s = Sim(cpus=cpus)
    lock, inside, rounds = Mutex(), [], []

    def worker(n):
        for i in range(4):
            mutex_lock(lock)
            inside.append(n)
            assert inside == [n] and lock.owner is register.task
            s.burn(burns[(n + i) % 6])
            yield_()
            inside.pop()
            mutex_unlock(lock)
            rounds.append(n)
            s.burn(burns[n] // 2)

    for n in range(tasks):
        s.spawn(lambda n=n: worker(n))
    s.run()
    s.close()
    assert sorted(rounds) == sorted(list(range(tasks)) * 4)
    assert lock.owner is None and not lock.wait_list and not lock.handoff


def test_a_signal_ends_the_wait_for_a_mutex_and_passes_the_wakeup_on(sim):
    s = sim()
    lock, log = Mutex(), []

    def owner():
        mutex_lock(lock)
        s.burn(ms(20))
        mutex_unlock(lock)

    def interrupted():
        try:
            mutex_lock_interruptible(lock)
        except KernelError as error:
            log.append(error.errno)

    s.spawn(owner)
    s.run(ms(1))
    target = s.spawn(interrupted)
    s.spawn(lambda: (mutex_lock(lock), log.append("last"), mutex_unlock(lock)))
    s.run(ms(10))
    assert mutex_trylock(lock) == 0
    send_signal(target)
    s.run()
    assert log == [EINTR, "last"]


@settings(max_examples=25, deadline=None)
@given(cpus=st.integers(1, 3), roles=st.lists(st.booleans(), min_size=2, max_size=8),
       burns=st.lists(st.integers(0, 300_000), min_size=8, max_size=8))
def test_readers_exclude_writers_and_nobody_starves(cpus, roles, burns):
    s = Sim(cpus=cpus)
    sem, readers, writers, done = RwSemaphore(), [], [], []

    def reader(n):
        for _ in range(3):
            down_read(sem)
            readers.append(n)
            assert not writers
            s.burn(burns[n])
            yield_()
            readers.remove(n)
            up_read(sem)
        done.append(n)

    def writer(n):
        for i in range(3):
            down_write(sem)
            writers.append(n)
            assert writers == [n] and not readers
            s.burn(burns[n])
            if i == 2:
                writers.remove(n)
                downgrade_write(sem)
                s.burn(1000)
                up_read(sem)
            else:
                yield_()
                writers.remove(n)
                up_write(sem)
        done.append(n)

    for n, write in enumerate(roles):
        s.spawn(lambda n=n, write=write: (writer if write else reader)(n))
    s.run()
    s.close()
    assert sorted(done) == list(range(len(roles)))
    assert sem.readers == 0 and sem.writer is None and not sem.wait_list


def test_a_waiting_writer_holds_back_new_readers(sim):
    s = sim(cpus=3)
    sem, log = RwSemaphore(), []

    def first():
        down_read(sem)
        s.burn(ms(10))
        log.append("first")
        up_read(sem)

    def writer():
        down_write(sem)
        log.append("writer")
        up_write(sem)

    def second():
        assert not down_read_trylock(sem)
        down_read(sem)
        log.append("second")
        up_read(sem)

    s.spawn(first)
    s.run(ms(1))
    s.spawn(writer)
    s.run(ms(5))
    s.spawn(second)
    s.run()
    assert log == ["first", "writer", "second"]


def test_a_killed_writer_lets_the_readers_behind_it_in(sim):
    s = sim(cpus=3)
    sem, log = RwSemaphore(), []

    def first():
        down_read(sem)
        s.burn(ms(30))
        up_read(sem)
        log.append("first")

    def writer():
        try:
            down_write_killable(sem)
        except KernelError as error:
            log.append(error.errno)

    s.spawn(first)
    s.run(ms(1))
    target = s.spawn(writer)
    s.run(ms(1))
    s.spawn(lambda: (down_read(sem), log.append("second"), up_read(sem)))
    s.run(ms(1))
    assert log == []
    target.ti_flags |= TIF_SIGPENDING
    target.pending.signal = 1 << 8                 # SIGKILL
    from glasskernel.kernel.sched.core import wake_up_state

    wake_up_state(target, 0x103)
    s.run()
    assert log == [EINTR, "second", "first"]


def test_semaphores_count(sim):
    s = sim(cpus=4)
    sem, log = Semaphore(2), []

    def user(n):
        down(sem)
        log.append(n)
        s.burn(ms(10))
        up(sem)

    def late():
        try:
            down_timeout(sem, 1)
        except KernelError as error:
            log.append(error.errno)

    for n in range(3):
        s.spawn(lambda n=n: user(n))
    s.spawn(late)
    s.run()
    assert log == [0, 1, ETIME, 2]
    assert (down_trylock(sem), down_trylock(sem), down_trylock(sem)) == (0, 0, 1)


@pytest.mark.parametrize("cpus", [1, 4])
def test_ping_pong_over_two_queues(sim, cpus):
    s = sim(cpus=cpus)
    queues, turn, count = (WaitQueueHead(), WaitQueueHead()), [0], [0, 0]

    def player(me):
        for _ in range(200):
            wait_event(queues[me], lambda: turn[0] == me)
            count[me] += 1
            turn[0] = 1 - me
            wake_up(queues[1 - me])

    s.spawn(lambda: player(0))
    s.spawn(lambda: player(1))
    s.run()
    assert count == [200, 200]
