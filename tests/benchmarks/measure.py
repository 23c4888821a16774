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
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.01
_TIMES_S = 0.2
_MEMORY_S = 0.5  # reading Pss walks page tables: more often, and the contestants feel it
_STRAGGLERS_S = 20.0  # daemons end by themselves when their driver has ended
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """wall_s: until the command ended. cpu_s: user and system, of all its descendants, of which those whose parents did
    not wait for them are known to a fifth of a second. peak_mb: the largest sum of their proportional set sizes (shared
    memory counted once) seen every half second. other_cores: how many cores other work, or the host, kept busy
    meanwhile. load: the system's one-minute load average before the start.
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
    system = ctypes.CDLL(None)
    system.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _end_all)
    system.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # when the benchmark itself is ended
    load, busy, started = os.getloadavg()[0], _busy_s(), time.monotonic()
    with open(log, "wb") as out:
        into = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        child = os.posix_spawn(command[0], list(command), os.environ, file_actions=into)
    exit_code, peak_kb, looked, weighed = None, 0, 0.0, 0.0
    times: dict[tuple[int, int], float] = {}
    while exit_code is None:
        for pid, status in _ended():
            exit_code = os.waitstatus_to_exitcode(status) if pid == child else exit_code
        now = time.monotonic()
        if now - looked >= _TIMES_S:
            looked, family = now, descendants(os.getpid())
            times |= family
            if now - weighed >= _MEMORY_S:
                weighed, peak_kb = now, max(peak_kb, sum(pss_kb(pid) for pid, _ in family))
        time.sleep(_POLL_S)
    wall = time.monotonic() - started
    _end_stragglers(times)
    # The kernel adds up what was waited for; Ray's raylet does not wait for its workers, and their time would be lost.
    used, own = max(sum(os.times()[2:4]), sum(times.values())), sum(os.times()[:2])
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


def _end_stragglers(times: dict[tuple[int, int], float]) -> None:
    end = time.monotonic() + _STRAGGLERS_S
    while family := descendants(os.getpid()):
        times |= family
        if time.monotonic() > end:
            _kill_all()
        for _ in _ended():
            pass
        time.sleep(_POLL_S)


def _kill_all() -> None:
    for pid, _ in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end_all(number: int, frame: object) -> None:
    while descendants(os.getpid()):
        _kill_all()  # again and again: some are just being started
        for _ in _ended():
            pass
    raise SystemExit(128 + number)


def descendants(root: int) -> dict[tuple[int, int], float]:
    """Processes below `root` (it left out), by id and start, and the CPU seconds that each itself has used."""
    children: dict[int, list[tuple[int, int, float]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                used = (int(fields[11]) + int(fields[12])) * _TICK_S
                children.setdefault(int(fields[1]), []).append((int(entry), int(fields[19]), used))
    found, queue = {}, [root]
    while queue:
        for pid, started, used in children.get(queue.pop(), []):
            found[pid, started] = used
            queue.append(pid)
    return found


def pss_kb(pid: int) -> int:
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
