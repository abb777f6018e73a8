"""Child processes that cannot outlive the test run."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep

PR_SET_PDEATHSIG = 1  # Linux, prctl(2): the signal a child gets when its parent dies
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Only for children of the main thread: the kernel counts the thread that started a child as its parent."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A server as a child process, with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, *, run_as: str | None = None, **environment: str) -> None:
        """`run_as`: the name of the user who runs it; None: whoever runs the tests."""
        self._command = list(command)
        self._run_as = run_as
        self._log = log
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.ending = ""  # how the last process ended

    def start(self) -> None:
        assert not self.is_running, "runs already"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment or None,
                user=self._run_as,
                preexec_fn=die_with_parent,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, seconds: float = 30.0) -> None:
        """Sends SIGTERM, and SIGKILL if the process does not end in time."""
        if not self.is_running:
            return
        self.signal(signal.SIGTERM)
        assert self._process is not None
        try:
            self._process.wait(seconds)
            self.ending = f"stopped with {self._process.returncode}"
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self, seconds: float) -> int:
        """Its exit status, when it has ended by itself. Raises `subprocess.TimeoutExpired`."""
        assert self._process is not None
        return self._process.wait(seconds)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.ending = "killed"

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_until(self, answers: Callable[[], object], seconds: float) -> None:
        """Returns when the server answers. If it does not, or dies, raises an error with the end of its output."""
        end = monotonic() + seconds
        problem: Exception | None = None
        while monotonic() < end and self.is_running:
            try:
                answers()
            except Exception as error:
                problem = error
                sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self._command[0]} did not come up: {problem}\n{self.output()[-3000:]}")


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
