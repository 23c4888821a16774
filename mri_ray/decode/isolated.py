"""Native decoders in a process of their own: what kills, hangs or bloats them costs one frame, and not the run.

One child serves a process. It is started when first needed, kept, and replaced when it died or was killed. It is a
plain new interpreter and none of `multiprocessing`'s: those import the parent's main module once more (under Ray that
is Ray's worker, and a second of work), keep a process to track resources, and pass pickles, which a child that hostile
input has taken over could fill with what it likes. Here a call is a function's name, numbers and bytes, and an answer
is an array.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mri_ray.decode import isolated_child as child_side
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason, RunError

_START_S = 120.0
_ATTEMPTS = 2  # the second shows whether it was the frame that ended a child, or something else
_DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8")
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_", "LD_", "DYLD_", "PYTHONHOME", "VIRTUAL_ENV")
_BOOT = "from mri_ray.decode.isolated_child import serve; serve()"

_lock = threading.Lock()
_child: "_Child | None" = None


def call(function: Callable[..., np.ndarray], *args: bytes | float | str | None, timeout_s: float) -> np.ndarray:
    """What a module's function gives when it is called in the child; from several threads one after the other.

    Raises Refused: as the function does, DAMAGED for any other exception of its, TIMEOUT, or CRASHED when it ends its
    process; RunError if no process can be started.
    """
    with _lock:
        for attempt in range(_ATTEMPTS):
            child = _running()
            try:
                return child.ask(function, args, timeout_s)
            except Refused:
                raise
            except _Died as died:
                _discard()
                if died.final or attempt == _ATTEMPTS - 1:
                    raise Refused(died.reason, died.detail) from None
            except BaseException:  # interrupted: the answer, when it comes, belongs to no question
                _discard()
                raise
    raise AssertionError("the last attempt returns or raises")


class _Died(Exception):
    """final: trying again would give the same."""

    def __init__(self, reason: Reason, detail: str, *, final: bool) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.final = reason, detail, final


class _Child:
    """A running child and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        # Not what is secret: keys of the storage and of the site stand in the environment, too.
        environment = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)} | {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-W", "ignore", "-c", _BOOT, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            # What decoders print may quote their input.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        try:
            self.socket.settimeout(_START_S)
            ready = self.socket.recv(1)
        except OSError:
            ready = b""
        except BaseException:
            self.end()
            raise
        if not ready:
            self.end()
            raise RunError(f"the process for decoders does not start, exit status {self.process.returncode}")

    def ask(self, function: Callable[..., np.ndarray], args: tuple, timeout_s: float) -> np.ndarray:
        """Raises _Died and leaves a process that is of no more use, or Refused and leaves a good one."""
        deadline = time.monotonic() + timeout_s
        question = {
            "function": [function.__module__, function.__qualname__],
            "args": [{"bytes": len(arg)} if isinstance(arg, bytes) else arg for arg in args],
            "timeout_s": timeout_s,
        }
        try:
            child_side.send(self.socket, question, [arg for arg in args if isinstance(arg, bytes)], deadline)
            answer = _understood(*child_side.receive(self.socket, deadline))
        except TimeoutError:
            raise _Died(Reason.TIMEOUT, f"decoding it took more than {timeout_s:g} s", final=True) from None
        except (OSError, EOFError):
            raise self._death(timeout_s) from None
        except (ValueError, TypeError, KeyError, StopIteration):
            raise _Died(Reason.CRASHED, "the decoder's process gives no array", final=False) from None
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _death(self, timeout_s: float) -> _Died:
        self.end()
        status = self.process.returncode
        if status == -signal.SIGALRM:
            return _Died(Reason.TIMEOUT, f"decoding it took more than {timeout_s:g} s", final=True)
        if status == child_side.OUT_OF_MEMORY:
            detail = f"decoding it takes more than {child_side.MEMORY_BYTES // 2**20} MiB of memory"
            return _Died(Reason.CRASHED, detail, final=True)
        name = f"exit status {status}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        return _Died(Reason.CRASHED, f"the decoder's process ended: {name}", final=False)

    def end(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


def _running() -> _Child:
    global _child
    if _child is not None and _child.process.poll() is not None:
        _discard()  # it was killed while it had nothing to do
    if _child is None:
        _child = _Child()
    return _child


def _discard() -> None:
    global _child
    child, _child = _child, None
    if child is not None:
        child.end()


def _forget() -> None:
    """After a fork: the child is the other process's."""
    global _child, _lock
    if _child is not None:
        _child.process.returncode = 0  # else it is reported as left running
        _child.socket.close()
    _child, _lock = None, threading.Lock()


atexit.register(_discard)
os.register_at_fork(after_in_child=_forget)


def _understood(answer: dict[str, Any], body: np.ndarray) -> np.ndarray | Refused:
    """Raises KeyError, TypeError, ValueError or StopIteration for what no child sends unless it was taken over."""
    if "refused" in answer:
        code, detail = answer["refused"]
        return Refused(next(reason for reason in Reason if reason.value == code), str(detail))
    if answer["dtype"] not in _DTYPES:
        raise ValueError("not an array of numbers")
    return body.view(answer["dtype"]).reshape(answer["shape"])
