"""Contestant (b+): the job's own steps on every object, one process a core, but no Ray, no snapshot and no report.

Held against (a) it tells what the engine costs; against (b), what the job does beyond answering: the file's structure,
a digest of the pixels, whether there is colour, columns of the header.
"""

import multiprocessing
import os
import sys
import tempfile

from tests.benchmarks.by_hand import KEPT

_SHARD = 64  # objects


def score(archive: str, bundle: str, output: str, books: str, taken) -> None:
    """Take shards until there are none; one Parquet file each."""
    from mri_ray.archive import outputs
    from mri_ray.archive.manifest import Manifest
    from mri_ray.archive.pseudonym import Identifiers
    from mri_ray.archive.storage import Location
    from mri_ray.decode.settings import DecodeConfig
    from mri_ray.learn.bundle import load
    from mri_ray.predict import shard as scoring
    from mri_ray.predict.predictor import Predictor
    from mri_ray.prepare.objects import rows

    place, results, manifest = Location.of(archive), Location.of(output), Manifest(Location.of(books))
    shards = manifest.shards()
    each = sum(shard.objects for shard in shards) // (os.cpu_count() or 1)
    predictor = Predictor(load(Location.of(bundle)), threads=1, engine="auto", slices=each)
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(shards):
            return
        objects = manifest.read_shard(shards[number])
        prepared = rows(objects, place, DecodeConfig(), predictor.bundle.prepare, Identifiers())
        table = scoring.score(prepared, predictor, run_id="by parts")
        results.write_table(outputs.name(shards[number]), table, if_absent=True)


def main(archive: str, bundle: str, output: str) -> None:
    from mri_ray.archive.manifest import Manifest
    from mri_ray.archive.storage import Location

    os.environ.update(KEPT)  # read by the C library of the processes started from here
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Value("q", 0)
    with tempfile.TemporaryDirectory() as books:
        Manifest(Location.of(books)).update(Location.of(archive).list(), shard_objects=_SHARD)
        workers = [
            spawn.Process(target=score, args=(archive, bundle, output, books, taken))
            for _ in range(os.cpu_count() or 1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
