"""A pool of threads for the parts of a layer's work, each with one BLAS thread.

Results never depend on the number of threads: the caller splits the work, and here it is only distributed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

MOST_THREADS = 1024  # far more than pay; many more cannot be started
_UNCHANGED = nullcontext()

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """A pool of threads, created at first use.

    Args:
        threads: how many compute, including the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A forked process has none of its parent's threads, and a lock that one of them held is never released.
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._blas_depth = 0
        self._blas_threads: list[int] = []
        self._unfinished = 0  # background tasks queued or running

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
            pool, self._pool, self._threads = self._pool, None, count
        if pool is not None:
            pool.shutdown()

    @property
    def blas_architectures(self) -> set[str]:
        """OpenBLAS's names of the processors whose kernels it uses here; empty for other BLAS libraries."""
        return {getattr(lib, "architecture", "") for lib in self._blas}

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`, computed in parallel by all free threads."""
        threads = 1 if self._is_worker else min(self._threads - self._unfinished, len(tasks))
        with self.one_blas_thread():
            if threads < 2:
                return [function(task) for task in tasks]
            # One range of tasks per thread: many short jobs lose more to the interpreter lock than they gain.
            borders = [len(tasks) * i // threads for i in range(threads + 1)]

            def run_part(i: int) -> list[Result]:
                return [function(task) for task in tasks[borders[i] : borders[i + 1]]]

            futures = [self._submit(run_part, i) for i in range(1, threads)]
            try:
                results = self._as_worker(run_part, 0)
            finally:
                wait(futures)  # before an error is raised, as other tasks may still write to the caller's arrays
            return results + [result for future in futures for result in future.result()]

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        """Run `background` tasks concurrently with the block; when it ends, all of them are done.

        BLAS uses one thread meanwhile.
        """
        with self.one_blas_thread():
            if self._threads < 2 or self._is_worker or self._started is not None:
                yield
                return
            started: list[tuple[Future[Any], Callable[[], Any]]] = []
            self._local.started = started
            try:
                yield
                for _, result in reversed(started):  # workers take the oldest first
                    result()
            finally:
                self._local.started = None
                # Before an error is raised, as tasks may still write to the caller's arrays.
                wait([future for future, _ in started if not future.cancel()])

    def background(self, task: Callable[[], Result]) -> Callable[[], Result]:
        """Start a task whose result is needed later, and return a function that gives its result.

        Outside of `overlapping`, and while all threads have enough to do, the task runs at once in the calling thread.
        """
        started = self._started
        with self._lock:
            # At most one queued task per worker: more would only keep their arrays alive.
            run_now = started is None or self._unfinished >= 2 * (self._threads - 1)
            self._unfinished += not run_now
        if started is None or run_now:
            value = task()
            return lambda: value
        queued = [task]  # popped when it runs, so that its arrays do not live as long as its result

        def run() -> Result:
            return queued.pop()()

        future = self._submit(run)
        future.add_done_callback(self._finish)

        @cache
        def result() -> Result:
            # A task that no worker has started yet is run here instead of waited for.
            return run() if future.cancel() else future.result()

        started.append((future, result))
        return result

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
    def _started(self) -> list[tuple[Future[Any], Callable[[], Any]]] | None:
        return getattr(self._local, "started", None)

    def _submit(self, function: Callable[..., Result], *args: Any) -> Future[Result]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="xpcnn")
            # In a copy of the caller's context, which has its numpy.errstate.
            return self._pool.submit(copy_context().run, self._as_worker, function, *args)

    def _as_worker(self, function: Callable[..., Result], *args: Any) -> Result:
        before, self._local.is_worker = self._is_worker, True
        try:
            return function(*args)
        finally:
            self._local.is_worker = before

    def _finish(self, future: Future[Any]) -> None:
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
