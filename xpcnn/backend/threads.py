"""Threads that share the work of a step, and hold BLAS to one thread each.

What is computed never depends on the number of threads: the caller cuts the work, here it is only handed out.
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

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """A pool of threads, made when it is first needed.

    Args:
        threads: how many share the work, the calling thread among them.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A forked process has none of its parent's threads, and a lock that one of them held stays locked for good.
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._blas_depth = 0
        self._blas_threads: list[int] = []
        self._unfinished = 0  # background tasks that wait or run

    @property
    def threads(self) -> int:
        """How many threads share the work."""
        return self._threads

    @threads.setter
    def threads(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"the number of threads must be at least 1, got {count}")
        with self._lock:
            pool, self._pool, self._threads = self._pool, None, count
        if pool is not None:
            pool.shutdown()

    @property
    def blas_architectures(self) -> set[str]:
        """The processors, by OpenBLAS's names, whose kernels multiply here; empty where BLAS does not say."""
        return {getattr(lib, "architecture", "") for lib in self._blas}

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """Return `[function(task) for task in tasks]`, computed by all threads that are free."""
        threads = 1 if self._is_worker else min(self._threads - self._unfinished, len(tasks))
        with self.one_blas_thread():
            if threads < 2:
                return [function(task) for task in tasks]
            # One long piece of work a thread: many short ones lose more to the interpreter lock than they gain.
            borders = [len(tasks) * i // threads for i in range(threads + 1)]

            def run_part(i: int) -> list[Result]:
                return [function(task) for task in tasks[borders[i] : borders[i + 1]]]

            futures = [self._submit(run_part, i) for i in range(1, threads)]
            try:
                results = self._as_worker(run_part, 0)
            finally:
                wait(futures)  # before an error leaves, or a task might still be writing behind the caller's back
            return results + [result for future in futures for result in future.result()]

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        """Let `background` tasks run beside what the block does; when it ends, all of them are done.

        BLAS is held to one thread meanwhile.
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
                # Before an error leaves, or a task might still be at work behind the caller's back.
                wait([future for future, _ in started if not future.cancel()])

    def background(self, task: Callable[[], Result]) -> Callable[[], Result]:
        """Begin a task that nothing waits for yet, and return a function that gives its result.

        Outside of `overlapping`, and where all threads have enough to do, the task is done at once.
        """
        started = self._started
        with self._lock:
            # One that waits for each that runs: more would only keep their arrays alive.
            at_once = started is None or self._unfinished >= 2 * (self._threads - 1)
            self._unfinished += not at_once
        if started is None or at_once:
            value = task()
            return lambda: value
        waiting = [task]  # popped once it runs, or the arrays it needs would live as long as its result

        def run() -> Result:
            return waiting.pop()()

        future = self._submit(run)
        future.add_done_callback(self._finish)

        @cache
        def result() -> Result:
            # A task that no thread has come to yet is done here rather than waited for.
            return run() if future.cancel() else future.result()

        started.append((future, result))
        return result

    def one_blas_thread(self) -> AbstractContextManager[None]:
        """Hold matrix products to the thread that calls them."""
        # A layer is computed inside of a network, and a task inside of a layer: there BLAS is held already.
        return nullcontext() if self._is_worker or getattr(self._local, "holds_blas", False) else self._hold_blas()

    @contextmanager
    def _hold_blas(self) -> Iterator[None]:
        self._local.holds_blas = True
        with self._lock:
            self._blas_depth += 1
            if self._blas_depth == 1:
                self._blas_threads = [lib.num_threads for lib in self._blas]
                self._set_blas_threads([1] * len(self._blas))
        try:
            yield
        finally:
            self._local.holds_blas = False
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
            # In a copy of the caller's context, which holds what the caller set by numpy.errstate.
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
            # From version 3.7 on, threadpoolctl heeds only the first thread that ever set a number. Ours are set and
            # restored in pairs, under a lock, by whichever thread comes first and leaves last.
            release = getattr(lib, "clear_controlling_thread", lambda force: None)
            release(force=True)
            lib.set_num_threads(count)
            release(force=True)
