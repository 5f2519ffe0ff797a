"""The pool of threads: order, errors, cancelling, and an end that waits."""

from __future__ import annotations

import threading
import weakref

import pytest

from vmpack.pipeline import Executor, Future, Inline, Threads, executor, ordered, worker_count


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    with executor(count) as pool:
        assert list(ordered(pool, lambda n: n * n, range(200), 2 * count)) == [
            n * n for n in range(200)
        ]


def test_one_worker_needs_no_thread() -> None:
    assert isinstance(executor(1), Inline)
    assert isinstance(executor(2), Threads)
    assert worker_count(0) == 1
    assert 1 <= worker_count(None) <= 16


@pytest.mark.parametrize("pool", [Inline(), Threads(2)], ids=["inline", "threads"])
def test_an_error_comes_out_at_its_place(pool: Executor) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise KeyError("five")
        return number

    with pool:
        results = ordered(pool, work, range(100), 4)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(KeyError, match="five"):
            next(results)
        assert pool.submit(work, 7).result() == 7, "the threads go on"


def test_an_interrupt_while_a_thread_starts_comes_out_as_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Threads(2) as pool:
        pool.submit(int)


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_callers_own_thread_is_not_for_later(
    end: type[BaseException],
) -> None:
    def work() -> None:
        raise end

    with pytest.raises(end):
        Inline().submit(work)


def test_closing_cancels_what_has_not_begun_and_waits_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go, made = threading.Event(), threading.Event(), list[int]()

    def work(number: int) -> None:
        begun.set()
        assert go.wait(60)
        made.append(number)

    pool = Threads(1)
    first, *others = [pool.submit(work, number) for number in range(5)]
    assert begun.wait(60)
    assert not first.cancel(), "it has begun"
    assert others[0].cancel()
    assert others[0].cancel(), "cancelling twice is harmless"
    real = Future.cancel

    def cancel(future: Future[None]) -> bool:
        """As it is; with the last of them gone the first call may go on."""
        found = real(future)
        if future is others[-1]:
            go.set()
        return found

    monkeypatch.setattr(Future, "cancel", cancel)
    pool.close()
    assert made == [0]
    assert [one.cancelled() for one in (first, *others)] == [False, True, True, True, True]
    assert [one.exception() for one in others] == [None] * 4
    pool.close()
    assert pool.submit(len, "abc").result() == 3, "a call after it starts anew"
    pool.close()


def test_leaving_the_context_waits_for_every_call() -> None:
    made: list[int] = []
    with Threads(3) as pool:
        for number in range(50):
            pool.submit(made.append, number)
    assert sorted(made) == list(range(50))
    assert not [one for one in threading.enumerate() if one.name.endswith("(_work)")]


def test_a_future_keeps_neither_the_call_nor_what_it_was_given() -> None:
    class Big:
        pass

    gone = threading.Event()
    big = Big()
    weakref.finalize(big, gone.set)
    with Threads(1) as pool:
        future = pool.submit(id, big)
        future.result()
        pool.submit(len, "").result()
        del big
        assert gone.is_set()
        assert future.result()
