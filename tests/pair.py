"""One pair of processes, connected by gloo, that serves every test of distributed behaviour."""

from __future__ import annotations

import os
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 10
"""Seconds that a rank has left where the other failed; it may wait for that one in vain."""


def _serve(rank: int, port: int, tasks: Any, results: Any) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    while (task := tasks.get()) is not None:
        function, arguments = task
        try:
            results.put((rank, True, function(**arguments)))
        except Exception:
            results.put((rank, False, traceback.format_exc()))
    dist.destroy_process_group()


class ProcessPair:
    """Runs a module-level function on two ranks at once and returns both results in rank order."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        self._tasks = [context.SimpleQueue() for _ in range(2)]
        self._results: Any = context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(rank, port, self._tasks[rank], self._results), daemon=True)
            for rank in range(2)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], timeout: float = 300, **arguments: Any) -> list[Any]:
        """Call ``function(**arguments)`` on both ranks.

        Raises:
            AssertionError: a rank raised, and the message is its traceback, or did not answer in time. What comes next
                is then run by a new pair.
        """
        for tasks in self._tasks:
            tasks.put((function, arguments))
        answers: dict[int, tuple[bool, Any]] = {}
        try:
            for _ in range(2):
                rank, fine, value = self._results.get(timeout=timeout)
                answers[rank] = fine, value
                timeout = timeout if fine else PATIENCE
        except queue.Empty:
            self._kill()
            self._start()
        for rank, (fine, value) in answers.items():
            assert fine, f"rank {rank} failed:\n{value}"
        assert len(answers) == 2, f"{2 - len(answers)} of 2 ranks did not answer"
        return [value for _, (_, value) in sorted(answers.items())]

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def close(self) -> None:
        """End both processes."""
        for tasks in self._tasks:
            tasks.put(None)
        for process in self._processes:
            process.join(10)
        self._kill()
