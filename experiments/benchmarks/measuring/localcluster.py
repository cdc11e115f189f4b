"""A Dask cluster on this machine whose workers can be killed and replaced."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from groundwork.files import read_json


class LocalCluster:
    """A Dask scheduler and its workers, each a process that nobody starts again."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self._told = folder.with_name(f"{folder.name}-scheduler.json")
        self._log = folder.with_name(f"{folder.name}-cluster.log")
        self._scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        self._workers = [self._start_worker() for _ in range(num_workers)]

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._workers, self._scheduler):
            process.kill()
            process.wait()

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        while True:
            with suppress(FileNotFoundError, ValueError):
                return str(read_json(self._told)["address"])
            time.sleep(0.05)

    @property
    def workers(self) -> list[int]:
        """Their processes."""
        return [worker.pid for worker in self._workers]

    def replace_worker(self, pid: int) -> None:
        """Kill one, and start another one in its place."""
        (victim,) = [worker for worker in self._workers if worker.pid == pid]
        self._workers.remove(victim)
        victim.kill()
        victim.wait()
        self._workers.append(self._start_worker())

    def _start_worker(self) -> "subprocess.Popen[bytes]":
        return self._start("dask_worker", "--nthreads", "1", "--no-nanny")

    def _start(self, module: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(self._told)]
        with self._log.open("ab") as log:
            return subprocess.Popen([*command, "--no-dashboard", *words], stderr=log, stdout=log)
