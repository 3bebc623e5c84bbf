"""Worker processes: what became of each item is known, whatever became of its worker."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broadline.errors import BroadlineError, UsageError
from broadline.ordered import Workers, in_order
from broadline.workers import LostError, Outcome, Pool, prepare


class Picky(Exception):  # noqa: N818
    """An exception that cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("too much")


def act(item: str | int) -> Any:
    """Do as told."""
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "leave":
        os._exit(3)
    if item == "stall":
        time.sleep(60)
    if item == "raise":
        raise UsageError("as told")
    if item == "picky":
        raise Picky(1, 2)
    if isinstance(item, float):
        time.sleep(item)
    return (item, os.getpid())


def make(how: str = "") -> Callable[[Any], Any]:
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise OSError(2, "No such file or directory", "model")
    return act


class Meeting:
    """An argument that is there once as many processes have begun to read it."""

    def __init__(self, folder: Path, n: int) -> None:
        self.how = folder, n

    def __reduce__(self) -> Any:
        return meet, self.how


def meet(folder: Path, n: int) -> str:
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < n:
        if time.monotonic() > end:
            raise TimeoutError("the others never came")
        time.sleep(0.01)
    return ""


def make_with_much(how: str, much: bytes) -> Callable[[Any], Any]:
    return make(how)


def results(items: list[Any], n: int = 2, limit: float | None = None) -> dict[Any, Outcome[Any, Any]]:
    """What becomes of items, by item."""
    found: dict[Any, Outcome[Any, Any]] = {}
    waiting = list(items)
    with Pool[Any, Any](prepare([]), make, (), n, limit) as pool:
        while len(found) < len(items):
            while waiting and pool.has_room():
                pool.submit(waiting.pop(0))
            found |= {outcome.item: outcome for outcome in pool.outcomes(1.0)}
    return found


def test_items_are_done_by_several_processes_and_none_of_them_is_this_one() -> None:
    found = results([0.2, 0.3, 3, 4, 5])
    assert [outcome.result[0] for outcome in found.values()] == list(found)
    pids = {outcome.result[1] for outcome in found.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {int(outcome.worker.split(":")[1]) for outcome in found.values()} == pids
    assert 0.3 <= found[0.3].seconds < 20


def test_the_death_of_a_worker_is_the_loss_of_its_item_alone() -> None:
    found = results([1, "die", 2, "leave", 3, 4])
    assert isinstance(found["die"].error, LostError) and "SIGKILL" in str(found["die"].error)
    assert isinstance(found["leave"].error, LostError) and "exit code 3" in str(found["leave"].error)
    assert all(found[item].result[0] == item for item in (1, 2, 3, 4))


def test_a_worker_that_takes_too_long_is_killed_and_the_others_go_on() -> None:
    begin = time.monotonic()
    found = results(["stall", 1, 2, 3], limit=2.0)
    assert str(found["stall"].error) == "it was not done after 2 s"
    assert all(found[item].error is None for item in (1, 2, 3))
    assert 2 <= time.monotonic() - begin < 40


def test_what_a_worker_raises_comes_back_with_its_traceback() -> None:
    found = results(["raise", "picky"], n=1)
    error = found["raise"].error
    assert isinstance(error, UsageError) and str(error) == "as told"
    assert "in act" in error.__notes__[0]
    assert isinstance(found["picky"].error, RuntimeError)
    assert str(found["picky"].error) == "Picky: too much"


def test_what_a_worker_raises_before_it_begins_is_raised_here() -> None:
    with (
        Pool[Any, Any](prepare([]), make, ("raise",), 1) as pool,
        pytest.raises(OSError, match=r"No such file or directory: 'model'"),
    ):
        while True:
            pool.outcomes(1.0)


def test_workers_that_never_begin_are_not_started_for_ever() -> None:
    with (
        Pool[Any, Any](prepare([]), make, ("die",), 1) as pool,
        pytest.raises(BroadlineError, match="end as soon as they start"),
    ):
        while True:
            pool.outcomes(1.0)


def test_a_worker_that_is_slow_to_hear_what_it_is_given_keeps_no_other_from_starting(tmp_path: Path) -> None:
    arguments = (Meeting(tmp_path, 3), bytes(1 << 20))  # more than a pipe holds
    with Pool[Any, Any](prepare([]), make_with_much, arguments, 3) as pool:
        while not pool.has_room():
            assert pool.outcomes(60) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_no_worker_outlives_its_pool() -> None:
    with Pool[Any, Any](prepare([]), make, (), 2) as pool:
        pids = [lane.process.pid for lane in pool._lanes]
        while not pool.has_room():
            pool.outcomes(1.0)
        pool.submit("stall")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_ordered_results_are_in_the_order_of_the_items_and_so_are_errors() -> None:
    items = [0.4, 1, 2, 3, 4, 5, "raise", 6]
    seen = []
    with (
        Workers[Any, Any](prepare([]), items, act, 2, act, (0,)) as workers,
        pytest.raises(UsageError, match="as told"),
    ):
        for item, result in workers:
            assert result[0] == item
            seen.append(item)
    assert seen == items[:6]


def test_a_killed_worker_ends_what_is_done_in_order() -> None:
    with (
        Workers[Any, Any](prepare([]), [1, "die", 2], act, 2, act, (0,)) as workers,
        pytest.raises(BroadlineError, match=r"a worker process was killed.*try fewer --workers"),
    ):
        list(workers)


def test_numbered_results_are_put_in_order() -> None:
    assert list(in_order([(2, "c"), (0, "a"), (1, "b"), (3, "d")])) == ["a", "b", "c", "d"]


def faults_of_batches(n: int) -> int:
    """Return the page faults of as many batches of 16 MB, each freed before the next, once two were there."""

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def batches(n: int) -> None:
        for _ in range(n):
            np.ones(1 << 21)

    batches(2)
    before = faults()
    batches(n)
    return faults() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_worker_keeps_the_memory_that_the_next_batch_needs() -> None:
    dask = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask starts its workers
    said = subprocess.run([sys.executable, __file__], env=dask, capture_output=True, text=True, check=True)
    assert int(said.stdout) < (1 << 24) // resource.getpagesize()  # of one batch, not of ten


if __name__ == "__main__":
    with Workers(prepare([]), [10], faults_of_batches, 1, int, ()) as results:
        print(*[faults for _, faults in results])
