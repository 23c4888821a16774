"""Contestant (b), the upper bound: one process a core that fetches, decodes, prepares and scores; no engine.

It gives the pixels and answers of the job with the least work known: OpenCV's libjpeg straight to grey, no check of
the file's structure, no digest, no header beyond the pixels; the job's own network, memory kept by the allocator. Paths
are handed out in chunks, so that no core idles while another has work.
"""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

_CHUNK = 32  # paths
_BATCH = 64
_THREADS = 16  # of one process, for objects on S3
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "OMP_NUM_THREADS": "1"}


def score(archive: str, bundle: str, output: str, paths: list[str], taken, number: int) -> None:
    """Take chunks of paths until there are none; one Parquet file a process."""
    import cv2
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mri_ray.archive.storage import Location
    from mri_ray.learn.bundle import load
    from mri_ray.predict.predictor import Predictor

    cv2.setNumThreads(1)
    each = len(paths) // (os.cpu_count() or 1)
    predictor = Predictor(load(Location.of(bundle)), threads=1, engine="auto", slices=each)
    to_pixels = prepared(predictor.bundle.prepare)
    names: list[str] = []
    answers: list[np.ndarray] = [np.empty(0, np.float32)]  # another process may have been quicker
    bodies = fetched(archive, chunks(paths, taken))
    while batch := list(islice(bodies, _BATCH)):
        answers.append(predictor.predict(np.stack([to_pixels(body) for _, body in batch])).probability)
        names += [name for name, _ in batch]
    probability = np.concatenate(answers)
    pq.write_table(
        pa.table({"uri": pa.array(names, pa.string()), "probability": probability}), f"{output}/part-{number}.parquet"
    )


def prepared(config):
    """A function from a file's bytes to uint8 (1, S, S), the same pixels that `prepare.slices.prepare` gives."""
    import cv2
    import numpy as np
    import pydicom

    from mri_ray.prepare.geometry import crop_to_head, fit, overview
    from mri_ray.prepare.intensity import is_blank, to_uint8

    grey = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION

    def to_pixels(body: bytes) -> np.ndarray:
        if body[128:132] == b"DICM":
            item = pydicom.dcmread(pydicom.filebase.DicomBytesIO(body), specific_tags=["Rows", "Columns", "PixelData"])
            stored = np.frombuffer(item.PixelData, "<u2").reshape(item.Rows, item.Columns)
            pixels = to_uint8(stored.astype(np.float32), 12, config)[0]
        else:
            pixels = cv2.imdecode(np.frombuffer(body, np.uint8), grey)
        small = overview(pixels)
        return fit(pixels if is_blank(small) else crop_to_head(pixels, config, small), config.size)[np.newaxis]

    return to_pixels


def chunks(paths: list[str], taken) -> Iterator[str]:
    while True:
        with taken.get_lock():
            start = taken.value
            taken.value += _CHUNK
        if start >= len(paths):
            return
        yield from paths[start : start + _CHUNK]


def fetched(archive: str, paths: Iterator[str]) -> Iterator[tuple[str, bytes]]:
    """Name and body of each; from S3 with many GETs under way, from local disk one after another."""
    if not archive.startswith("s3://"):
        for path in paths:
            yield path, Path(path).read_bytes()
        return
    store = _s3(archive)

    def get(path: str) -> tuple[str, bytes]:
        return path, bytes(store.get(path).bytes())

    ahead: deque = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for path in paths:
            ahead.append(pool.submit(get, path))
            if len(ahead) > 2 * _THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def listed(archive: str) -> list[str]:
    if not archive.startswith("s3://"):
        return sorted(entry.path for entry in os.scandir(archive))
    return sorted(found["path"] for page in _s3(archive).list() for found in page)


def _s3(archive: str):
    """obstore: of the clients tried it costs the least processor time a GET."""
    from obstore.store import S3Store

    return S3Store.from_url(archive, client_options={"allow_http": True})


def a_process_a_core(score: Callable[..., None], *arguments: object) -> None:
    """Each is also given a counter that all share, and its own number."""
    os.environ.update(KEPT)  # read by the C library of the processes started from here
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Value("q", 0)
    workers = [spawn.Process(target=score, args=(*arguments, taken, number)) for number in range(os.cpu_count() or 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process failed")


def main(archive: str, bundle: str, output: str) -> None:
    Path(output).mkdir(parents=True)
    a_process_a_core(score, archive, bundle, output, listed(archive))


if __name__ == "__main__":
    main(*sys.argv[1:])
