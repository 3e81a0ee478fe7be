"""Decoding pictures in several processes.

Two threads take as long as one: of the 110 µs that a picture of 32×32 takes, 30 are without Python's lock. Processes
are started by `subprocess`: a fork of a process with threads may never end, and `multiprocessing` runs the script of
a user once more if it has no `if __name__ == "__main__"`. A process that a damaged file kills is replaced. All of them
end when the process that started them does, however it ends, as then nothing can write to their stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from .decode import Batch, Plan, decode

_READY = b"ready\n"
_AHEAD = 2  # batches for each process that are being decoded, or wait to be taken


def decode_all(batches: Sequence[Sequence[str]], plan: Plan, processes: int) -> Generator[Batch, None, None]:
    """Yield what `decode` returns for each batch of paths, in order.

    Args:
        batches: the paths.
        plan: see `decode`.
        processes: how many decode; 1 for the calling one.
    """
    if processes < 2:
        for paths in batches:
            yield decode(paths, plan)
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()
    workers = [_Worker() for _ in range(processes)]

    def run(paths: Sequence[str]) -> Batch:
        worker = idle.get()
        try:
            return worker.decode(paths, plan)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(processes, thread_name_prefix="xpcnn-decode")  # one waits for each process
    try:
        for worker in workers:
            idle.put(worker)
        running: deque[Future[Batch]] = deque()
        for paths in batches:
            running.append(threads.submit(run, paths))
            if len(running) >= _AHEAD * processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for worker in workers:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """A process that decodes; it starts at once, and is waited for when it is needed."""

    def __init__(self) -> None:
        self._killed = False
        self._start()

    def decode(self, paths: Sequence[str], plan: Plan) -> Batch:
        """Return what `decode` returns. A file that kills the process has a fault."""
        if not paths or self._process is None:
            return decode(paths, plan)
        try:
            return self._ask(self._process, paths, plan)
        except (OSError, EOFError):
            if self._killed:
                raise
        self.close()
        self._start()
        if len(paths) == 1:
            return Batch(np.empty((0, *plan.shape), np.uint8), faults={0: "it crashes the process that decodes it"})
        # One by one, to find the file.
        parts = [self.decode([path], plan) for path in paths]
        misfit = next((i for i, part in enumerate(parts) if part.misfit is not None), None)
        faults = {i: text for i, part in enumerate(parts) for text in part.faults.values()}
        done = [words for part in parts for words in part.done]
        return Batch(np.concatenate([part.pixels for part in parts]), done, faults, misfit)

    def kill(self) -> None:
        """End the process, whatever it does; a thread that waits for its answer gets an error."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process and close its pipes, for which no thread may wait."""
        if self._process is not None:
            self._process.kill()
            # BrokenPipeError: what it did not read is lost.
            with contextlib.suppress(BrokenPipeError), self._process:
                pass

    def _start(self) -> None:
        # The same modules as here, wherever they come from.
        code = f"import sys; sys.path[:] = {sys.path!a}; from {__name__} import serve; serve()"
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # Python is part of another program; this process decodes
            self._process = subprocess.Popen(
                [sys.executable or "", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # where libtiff writes about damaged files
                env=os.environ | one_thread,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def _ask(self, process: subprocess.Popen[bytes], paths: Sequence[str], plan: Plan) -> Batch:
        assert process.stdin is not None
        assert process.stdout is not None
        if not self._ready:
            if process.stdout.readline() != _READY and not self._killed:
                self.close()
                self._process = None
                return decode(paths, plan)
            self._ready = True
        _send(process.stdin, {"paths": paths, "plan": asdict(plan)})
        answer = _receive(process.stdout)
        pixels = np.empty((answer["count"], *plan.shape), np.uint8)
        if process.stdout.readinto(pixels.reshape(-1).data) != pixels.nbytes:  # type: ignore[attr-defined]
            raise EOFError
        faults = {int(i): text for i, text in answer["faults"].items()}
        return Batch(pixels, answer["done"], faults, answer["misfit"])


def serve() -> None:
    """Decode what stdin asks for, until it ends; this is all that a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that a library prints gets between the answers
    answers.write(_READY)
    answers.flush()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request = _receive(requests)
            plan = request["plan"]
            batch = decode(request["paths"], Plan(**plan | {"shape": tuple(plan["shape"])}))
            _send(
                answers,
                {"count": len(batch.pixels), "done": batch.done, "faults": batch.faults, "misfit": batch.misfit},
                batch.pixels.reshape(-1).data,
            )


def _send(file: Any, message: dict[str, Any], content: memoryview | bytes = b"") -> None:
    file.write(json.dumps(message).encode() + b"\n")
    file.write(content)
    file.flush()


def _receive(file: BinaryIO | Any) -> Any:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)
