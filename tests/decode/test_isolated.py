"""What a decoder does to its process costs one frame: a crash, a hang, memory; and the next frame is fine."""

import ctypes
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mri_ray.decode import isolated, isolated_child
from mri_ray.decode.limits import Refused
from mri_ray.errors import Reason, RunError


def call(function, *args, timeout_s=30.0):
    return isolated.call(function, *args, timeout_s=timeout_s)


def refused(function, *args, timeout_s=30.0) -> Refused:
    with pytest.raises(Refused) as caught:
        call(function, *args, timeout_s=timeout_s)
    return caught.value


def pid() -> int:
    return int(call(os.getpid))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends_within(process: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_running(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def elsewhere():
    """The id of the child; that test may end it."""
    return pid()


# What comes back


def test_it_runs_in_another_process_that_is_kept():
    first = pid()
    assert first != os.getpid()
    assert [pid() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4), (0, 4)])
def test_arrays_come_back_as_they_are(dtype, shape):
    given = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    found = call(np.frombuffer, given.tobytes(), dtype) if given.size else call(np.zeros, 0, dtype)
    assert found.dtype == given.dtype
    assert np.array_equal(found, given.ravel())


def test_what_is_larger_than_the_wire_holds_at_once_comes_whole():
    data = np.random.default_rng(2).bytes(30_000_000)
    assert call(np.frombuffer, data, "u1").tobytes() == data


def test_an_exception_is_a_damaged_frame_and_its_words_stay_there():
    first = pid()
    found = refused(int, "Doe^John")
    assert (found.reason, found.detail) == (Reason.DAMAGED, "int: ValueError")
    assert pid() == first


def test_what_is_no_array_of_numbers_does_not_come_back():
    found = refused(time.sleep, 0)
    assert (found.reason, found.detail) == (Reason.DAMAGED, "sleep: TypeError")
    found = refused(os.getcwd)
    assert (found.reason, found.detail) == (Reason.CRASHED, "the decoder's process gives no array")


# What ends a child


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        (os._exit, (3,), "exit status 3"),
        (os.abort, (), "SIGABRT"),
        (ctypes.string_at, (0,), "SIGSEGV"),
        (signal.raise_signal, (signal.SIGKILL,), "SIGKILL"),
    ],
    ids=["exit", "abort", "segfault", "kill"],
)
def test_a_crash_costs_one_frame(elsewhere, function, args, said):
    found = refused(function, *(int(arg) for arg in args))
    assert found.reason is Reason.CRASHED
    assert said in found.detail
    assert not is_running(elsewhere)
    assert pid() not in (elsewhere, os.getpid())


@pytest.mark.parametrize(
    ("function", "args"), [(time.sleep, (600,)), (math.factorial, (10**8,))], ids=["sleeps", "busy"]
)
def test_a_hang_costs_its_time(elsewhere, function, args):
    start = time.monotonic()
    found = refused(function, *args, timeout_s=0.4)
    assert found.reason is Reason.TIMEOUT
    assert 0.4 <= time.monotonic() - start < 5
    assert not is_running(elsewhere)
    assert np.array_equal(call(np.arange, 4), range(4))


@pytest.mark.parametrize("size", [2 * isolated_child.MEMORY_BYTES, 2**62])
def test_a_child_has_little_memory(elsewhere, size):
    found = refused(np.zeros, size, "u1")
    assert found.reason is Reason.CRASHED
    assert "4096 MiB" in found.detail
    assert call(np.ones, 2**20, "u1").sum() == 2**20


def test_a_child_that_ended_while_idle_costs_nothing(elsewhere):
    os.kill(elsewhere, signal.SIGKILL)
    assert ends_within(elsewhere, 5)
    assert call(np.arange, 3).size == 3


def test_a_child_killed_at_work_by_something_else_costs_nothing(elsewhere):
    killer = threading.Timer(0.2, os.kill, (elsewhere, signal.SIGKILL))
    killer.start()
    assert call(np.bartlett, 5_000_000).size == 5_000_000
    killer.join()
    assert pid() != elsewhere


def test_an_interrupted_call_leaves_no_answer_for_the_next():
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            call(time.sleep, 1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(call(np.arange, 5), range(5))


def test_a_child_that_does_not_start_is_no_fault_of_a_frame(elsewhere, monkeypatch):
    os.kill(elsewhere, signal.SIGKILL)
    assert ends_within(elsewhere, 5)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RunError, match="does not start"):
            call(np.zeros, 3)
    assert call(np.zeros, 3).size == 3


# Whose child it is


def test_threads_share_one_child_and_get_their_own_answers():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: call(np.full, number % 7 + 1, number), range(200)))
        owners = set(pool.map(lambda _: pid(), range(20)))
    assert all(np.array_equal(item, [number] * (number % 7 + 1)) for number, item in enumerate(found))
    assert len(owners) == 1


def test_a_crash_in_one_thread_leaves_the_others():
    def work(number):
        if number % 10 == 3:
            return refused(os._exit, 1).reason is Reason.CRASHED
        return int(call(np.full, 1, number)[0]) == number

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_it_outlives_the_thread_that_started_it(elsewhere):
    os.kill(elsewhere, signal.SIGKILL)
    assert ends_within(elsewhere, 5)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(pid).result()
    time.sleep(1.5)
    assert pid() == started


def _script(body: str, **environment: str) -> subprocess.Popen:
    code = "import os, sys, time, threading, math\nfrom mri_ray.decode import isolated\n" + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def test_a_forked_process_gets_a_child_of_its_own():
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what happens, not what is advised
        def child():
            return int(isolated.call(os.getpid, timeout_s=30))
        mine = child()
        if forked := os.fork():
            os.waitpid(forked, 0)
            print(mine, child(), os.getpid(), flush=True)
        else:
            print(child(), flush=True)
    """
    with _script(code) as parent:
        out, err = parent.communicate(timeout=60)
    other, mine, again, owner = map(int, out.split())
    assert (parent.returncode, err) == (0, b"")
    assert mine == again
    assert len({other, mine, owner}) == 3
    assert not is_running(other)


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(600)",
        "isolated.call(time.sleep, 600, timeout_s=600)",
        "isolated.call(math.factorial, 10**8, timeout_s=2)",
    ],
    ids=["idle", "asleep", "busy"],
)
def test_a_killed_parent_leaves_no_child(work):
    with _script(f"""
        print(int(isolated.call(os.getpid, timeout_s=30)), flush=True)
        {work}
    """) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        time.sleep(0.3)
        parent.kill()
        parent.wait()
        assert ends_within(child, 8)


def test_a_parent_that_ends_ends_its_child_without_a_word():
    with _script("print(int(isolated.call(os.getpid, timeout_s=30)))") as parent:
        out, err = parent.communicate(timeout=60)
    assert (parent.returncode, err) == (0, b"")
    assert not is_running(int(out))


def test_a_child_imports_nothing_of_its_parent(tmp_path):
    """Not its main module, not what lies in the folder it runs in, not what takes long to import."""
    (tmp_path / "struct.py").write_text("raise ImportError('of the working folder')")
    (tmp_path / "main.py").write_text(
        textwrap.dedent("""
            import sys
            del sys.path[0]
            from mri_ray.decode import isolated
            names = ("torch", "ray", "pydicom", "PIL", "__mp_main__")
            imported = f"[float(name in __import__('sys').modules) for name in {names}]"
            print("main", isolated.call(eval, imported, timeout_s=30))
        """)
    )
    found = subprocess.run(
        [sys.executable, "main.py"], capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONWARNINGS": "error"}
    )
    assert (found.stdout, found.stderr) == (b"main [0. 0. 0. 0. 0.]\n", b"")


def test_a_child_is_told_no_secrets():
    code = """
        told = isolated.call(eval, "float('AWS_SECRET_ACCESS_KEY' in __import__('os').environ)", timeout_s=30)
        print(float('AWS_SECRET_ACCESS_KEY' in os.environ), told)
    """
    with _script(code, AWS_SECRET_ACCESS_KEY="planted") as parent:
        out, err = parent.communicate(timeout=60)
    assert (out, err) == (b"1.0 0.0\n", b"")


def test_signals_that_a_parent_blocks_do_reach_its_child():
    code = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        print(int(isolated.call(os.getpid, timeout_s=30)), flush=True)
        isolated.call(time.sleep, 600, timeout_s=600)
    """
    with _script(code) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGINT)
        time.sleep(0.3)
        assert is_running(child), (
            "Ctrl-C reaches every process of the terminal; this one's end is its parent's business"
        )
        os.kill(child, signal.SIGALRM)
        assert ends_within(child, 5)
        parent.kill()


def test_it_works_in_a_worker_of_multiprocessing():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(isolated.call, (np.arange, 4), {"timeout_s": 30.0}).tolist() == [0, 1, 2, 3]
