"""Contestant (b+): the job's own steps on every object, one process a core, but no Ray, no snapshot and no report.

Held against (a) it tells what the engine costs; against (b), what the job does beyond answering: the file's structure,
a digest of the pixels, whether there is colour, columns of the header.
"""

import os
import sys
import tempfile

from tests.benchmarks.by_hand import a_process_a_core

_SHARD = 64  # objects


def score(archive: str, bundle: str, output: str, books: str, taken, _: int) -> None:
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

    with tempfile.TemporaryDirectory() as books:
        Manifest(Location.of(books)).update(Location.of(archive).list(), shard_objects=_SHARD)
        a_process_a_core(score, archive, bundle, output, books)


if __name__ == "__main__":
    main(*sys.argv[1:])
