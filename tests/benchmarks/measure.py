"""One command measured from outside, with all processes that descend from it: wall time, CPU time, peak memory.

A contestant may start daemons that outlive their parents, as Ray does. So every command runs below a small process of
its own (this module's `main`), to which Linux hands over orphans: none escapes the count, and none is left behind.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.01
_SAMPLE_S = 0.5  # reading Pss walks page tables: more often, and the contestants feel it
_STRAGGLERS_S = 20.0  # daemons end by themselves when their driver has ended
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """wall_s: until the command ended. cpu_s: user and system, of all its descendants. peak_mb: the largest sum of
    their proportional set sizes (shared memory counted once) seen every half second. other_cores: how many cores other
    work kept busy meanwhile. load: the system's one-minute load average before the start.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    other_cores: float
    load: float


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Measured:
    """Run a command in the project's folder; what it prints goes to `log`. Raises RuntimeError when it fails."""
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        found = Path(folder) / "measured.json"
        watched = [sys.executable, "-m", "tests.benchmarks.measure", str(found), str(log), *command]
        subprocess.run(watched, env=dict(environment), cwd=ROOT, check=True)
        values = json.loads(found.read_text())
    if values.pop("exit_code"):
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{tail}")
    return Measured(**values)


def main(found: str, log: str, *command: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    load, busy, started = os.getloadavg()[0], _busy_s(), time.monotonic()
    with open(log, "wb") as out:
        into = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        child = os.posix_spawn(command[0], list(command), os.environ, file_actions=into)
    exit_code, peak_kb, sampled = None, 0, 0.0
    while exit_code is None:
        for pid, status in _ended():
            exit_code = os.waitstatus_to_exitcode(status) if pid == child else exit_code
        if time.monotonic() - sampled >= _SAMPLE_S:
            sampled = time.monotonic()
            peak_kb = max(peak_kb, sum(map(_pss_kb, descendants(os.getpid()))))
        time.sleep(_POLL_S)
    wall = time.monotonic() - started
    _end_stragglers()
    # Only now is all CPU time known: a process's counts when it was waited for, by its parent or here.
    used, own = (os.times().children_user + os.times().children_system), sum(os.times()[:2])
    elapsed = time.monotonic() - started
    values = {
        "exit_code": exit_code,
        "wall_s": round(wall, 3),
        "cpu_s": round(used, 2),
        "peak_mb": round(peak_kb / 1024, 1),
        "other_cores": round(max(0.0, (_busy_s() - busy - used - own) / elapsed), 2),
        "load": load,
    }
    Path(found).write_text(json.dumps(values))


def _ended() -> Iterator[tuple[int, int]]:
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


def _end_stragglers() -> None:
    end = time.monotonic() + _STRAGGLERS_S
    while left := descendants(os.getpid()):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for _ in _ended():
            pass
        time.sleep(_POLL_S)


def descendants(root: int) -> list[int]:
    """Processes below `root`, itself left out."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _pss_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0  # it has ended meanwhile


def _busy_s() -> float:
    """CPU seconds that this machine has worked since it was started, or was kept from working by its host."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) * _TICK_S


if __name__ == "__main__":
    main(*sys.argv[1:])
