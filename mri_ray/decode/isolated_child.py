"""The other side of `isolated`: the loop of the process that decoders run in, and the wire between the two.

A message is the lengths of its parts, a JSON object, and bytes. It imports little: it starts while a frame waits.
"""

import importlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Never

import numpy as np

from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason

MEMORY_BYTES = 4 * 2**30  # address space
OUT_OF_MEMORY = 77  # exit status
_LENGTHS = struct.Struct("<IQ")
_WATCH_S = 1.0


def send(channel: socket.socket, head: dict[str, Any], body: Sequence[bytes | memoryview], deadline: float) -> None:
    """deadline: by time.monotonic(); raises OSError, of which TimeoutError is one."""
    packed = json.dumps(head).encode()
    for part in (_LENGTHS.pack(len(packed), sum(map(len, body))) + packed, *body):
        channel.settimeout(_left(deadline))
        channel.sendall(part)


def receive(channel: socket.socket, deadline: float) -> tuple[dict[str, Any], np.ndarray]:
    """The JSON object and the bytes; raises OSError, EOFError, or ValueError for what is no message."""
    lengths = _LENGTHS.unpack(_read(channel, _LENGTHS.size, deadline).tobytes())
    if sum(lengths) > MEMORY_BYTES:
        raise ValueError("more than either side can hold")
    head = json.loads(_read(channel, lengths[0], deadline).tobytes())
    return head, _read(channel, lengths[1], deadline)


def serve() -> Never:
    """Answers until the other side is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _protect(parent=int(sys.argv[2]))
    channel.sendall(b"!")
    while True:
        try:
            question, body = receive(channel, np.inf)
            # The kernel's alarm also ends what holds the interpreter's lock, and when the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, question["timeout_s"] + 2 * _WATCH_S)
            send(channel, *_answer(question, body), np.inf)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except (OSError, EOFError):
            os._exit(0)


def _read(channel: socket.socket, length: int, deadline: float) -> np.ndarray:
    whole = np.empty(length, np.uint8)
    view = whole.data
    while view:
        channel.settimeout(_left(deadline))
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return whole


def _left(deadline: float) -> float | None:
    if deadline == np.inf:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _protect(parent: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a parent blocks or ignores its children do, too.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    # PR_SET_PDEATHSIG would end this process with the thread of the parent that started it, often a passing one.
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(0)


def _answer(question: dict[str, Any], body: np.ndarray) -> tuple[dict[str, Any], list[memoryview]]:
    module, name = question["function"]
    args, start = [], 0
    for arg in question["args"]:
        if isinstance(arg, dict):
            args.append(body[start : start + arg["bytes"]].tobytes())
            start += arg["bytes"]
        else:
            args.append(arg)
    try:
        result = np.asarray(getattr(importlib.import_module(module), name)(*args), order="C")
        packed = result.reshape(-1).view(np.uint8).data
    except Refused as refused:
        return {"refused": [refused.reason.value, refused.detail]}, []
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as exc:
        return {"refused": [Reason.DAMAGED.value, f"{name}: {type(exc).__name__}"]}, []
    return {"dtype": result.dtype.str, "shape": result.shape}, [packed]
