"""A pool of threads for the parts of a layer's work, each with one BLAS thread.

Results never depend on the number of threads: the caller splits the work, and here it is only distributed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from threadpoolctl import ThreadpoolController

MOST_THREADS = 1024  # far more than pay; many more cannot be started
_UNCHANGED = nullcontext()

Task = TypeVar("Task")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    # A container or a batch system may grant fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Job(Generic[Result]):
    """A call that any thread may take, also the one that waits for it.

    `concurrent.futures` does the same and more, in 60 µs instead of 25 for two short calls on two threads.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._context = copy_context()  # which has the caller's numpy.errstate
        self._untaken, self._done = threading.Lock(), threading.Lock()
        self._done.acquire()
        self._value: Result
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless a thread has taken it already."""
        if not self._untaken.acquire(blocking=False):
            return
        try:
            self._value = self._context.run(self._function)
        except BaseException as error:
            self._error = error
        del self._function  # its arrays should not live as long as its result
        self._done.release()

    def wait(self) -> None:
        """Return when the call is done; make it here if no other thread has taken it."""
        self.run()
        with self._done:
            pass

    def cancel(self) -> bool:
        """Return whether no thread has taken the call, which then will not be made; else wait until it is done."""
        if self._untaken.acquire(blocking=False):
            del self._function
            self._error = RuntimeError("the backward pass that started this task has failed")
            self._done.release()
            return True
        self.wait()
        return False

    def result(self) -> Result:
        """Return what the function returned, or raise what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value


def _serve(jobs: SimpleQueue[_Job[Any] | None]) -> None:
    """Run jobs until a None."""
    while (job := jobs.get()) is not None:
        job.run()
        del job  # and its result, while this thread waits for the next one


class Workers:
    """A pool of threads, created at first use.

    Args:
        threads: how many compute, including the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._cores = usable_cores()
        # Empty for Accelerate, on macOS: its users set VECLIB_MAXIMUM_THREADS=1.
        self._blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A forked process has none of its parent's threads, and a lock that one of them held is never released.
        self._pool: list[threading.Thread] = []
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._blas_depth = 0
        self._blas_threads: list[int] = []
        self._unfinished = 0  # background tasks queued or running
        self._helping = 0  # threads that compute parts of other threads' work

    @property
    def threads(self) -> int:
        """How many threads compute, including the calling one."""
        return self._threads

    @threads.setter
    def threads(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"the number of threads must be at least 1, got {count}")
        if count > MOST_THREADS:
            raise ValueError(f"the number of threads must be at most {MOST_THREADS}")
        with self._lock:
            pool, self._pool, self._threads = self._pool, [], count
            for _ in pool:
                self._jobs.put(None)
            self._jobs = SimpleQueue()
        for thread in pool:
            thread.join()

    @property
    def blas_architectures(self) -> set[str]:
        """OpenBLAS's names of the processors whose kernels it uses here; empty for other BLAS libraries."""
        return {getattr(lib, "architecture", "") for lib in self._blas}

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`, computed in parallel by all free threads."""
        with self.one_blas_thread():
            helpers = self._take_helpers(len(tasks) - 1)
            if not helpers:
                return [function(task) for task in tasks]
            threads = helpers + 1
            # One range of tasks per thread: many short jobs lose more to the interpreter lock than they gain.
            borders = [len(tasks) * i // threads for i in range(threads + 1)]

            def run_part(i: int) -> list[Result]:
                return [function(task) for task in tasks[borders[i] : borders[i + 1]]]

            jobs: list[_Job[list[Result]]] = []
            try:
                jobs += (self._submit(partial(run_part, i)) for i in range(1, threads))
                results = self._as_worker(partial(run_part, 0))
            finally:
                for job in jobs:  # before an error is raised, as other tasks may still write to the caller's arrays
                    job.wait()
                with self._lock:
                    self._helping -= helpers
            return results + [result for job in jobs for result in job.result()]

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        """Run `background` tasks concurrently with the block; when it ends, all of them are done.

        BLAS uses one thread meanwhile.
        """
        with self.one_blas_thread():
            if self._threads < 2 or self._is_worker or self._started is not None:
                yield
                return
            started: list[_Job[Any]] = []
            self._local.started = started
            try:
                yield
                for job in reversed(started):  # workers take the oldest first
                    job.result()
            finally:
                self._local.started = None
                # Before an error is raised, as tasks may still write to the arrays. The last may not have begun.
                for job in reversed(started):
                    if job.cancel():
                        self._finish()

    def background(self, task: Callable[[], Result]) -> Callable[[], Result]:
        """Start a task whose result is needed later, and return a function that gives its result.

        Outside of `overlapping`, and while all threads have enough to do, the task runs at once in the calling thread.
        """
        started = None if self._is_worker else self._started
        with self._lock:
            # At most one queued task per worker: more would only keep their arrays alive.
            run_now = started is None or self._unfinished >= 2 * (self._threads - 1)
            self._unfinished += not run_now
        if started is None or run_now:
            value = task()
            return lambda: value

        def run() -> Result:
            try:
                return task()
            finally:
                self._finish()

        job = self._submit(run, may_share=True)
        started.append(job)
        return job.result

    def one_blas_thread(self) -> AbstractContextManager[None]:
        """Run matrix products inside the block on the calling thread only."""
        # Layers run inside a network and tasks inside a layer, where BLAS is already limited to one thread.
        here = self._local.__dict__  # asked for every product, so this is written to be fast
        return _UNCHANGED if here.get("is_worker") or here.get("limits_blas") else self._limit_blas()

    @contextmanager
    def _limit_blas(self) -> Iterator[None]:
        self._local.limits_blas = True
        with self._lock:
            self._blas_depth += 1
            if self._blas_depth == 1:
                self._blas_threads = [lib.num_threads for lib in self._blas]
                self._set_blas_threads([1] * len(self._blas))
        try:
            yield
        finally:
            self._local.limits_blas = False
            with self._lock:
                self._blas_depth -= 1
                if self._blas_depth == 0:
                    self._set_blas_threads(self._blas_threads)

    @property
    def _is_worker(self) -> bool:
        return getattr(self._local, "is_worker", False)

    @property
    def _may_share(self) -> bool:
        """Whether this worker runs a background task, whose parts idle threads may compute."""
        return getattr(self._local, "may_share", False)

    @property
    def _started(self) -> list[_Job[Any]] | None:
        return getattr(self._local, "started", None)

    def _submit(self, function: Callable[[], Result], may_share: bool = False) -> _Job[Result]:
        job = _Job(partial(self._as_worker, function, may_share))
        with self._lock:
            if not self._pool:
                names = (f"xpcnn_{i}" for i in range(max(1, self._threads - 1)))
                self._pool = [
                    threading.Thread(target=_serve, args=(self._jobs,), name=name, daemon=True) for name in names
                ]
                for thread in self._pool:
                    thread.start()
            self._jobs.put(job)
        return job

    def _take_helpers(self, most: int) -> int:
        """Reserve idle threads for the calling thread's work, at most so many, and return how many."""
        if most < 1 or (self._is_worker and not self._may_share):
            return 0
        # Sharing a background task pays only where cores are idle too: 16 threads on two cores lost 3 % more.
        threads = min(self._threads, self._cores) if self._is_worker else self._threads
        with self._lock:
            # All threads but the one that works in the foreground, which is never idle for long.
            helpers = max(0, min(most, threads - 1 - self._unfinished - self._helping))
            self._helping += helpers
        return helpers

    def _as_worker(self, function: Callable[[], Result], may_share: bool = False) -> Result:
        local = self._local
        before = self._is_worker, self._may_share
        local.is_worker, local.may_share = True, may_share
        try:
            return function()
        finally:
            local.is_worker, local.may_share = before

    def _finish(self) -> None:
        with self._lock:
            self._unfinished -= 1

    def _set_blas_threads(self, counts: list[int]) -> None:
        for lib, count in zip(self._blas, counts, strict=True):
            # Since version 3.7, threadpoolctl only obeys the first thread that ever set a number. Here numbers are set
            # and restored under a lock, by whichever threads enter first and leave last.
            release = getattr(lib, "clear_controlling_thread", lambda force: None)
            release(force=True)
            lib.set_num_threads(count)
            release(force=True)
