"""A trained bundle: all that an answer depends on, as a folder at any location; safetensors and JSON, no pickle.

weights.safetensors   the network's state dict
model_card.md         for people
bundle.json           everything else; written last, so a bundle that was only half written cannot be loaded
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from mri_ray.archive.identity import digest, digest_json
from mri_ray.archive.storage import Location
from mri_ray.errors import BundleError, ConfigError
from mri_ray.learn.calibrate import Knots, calibrated
from mri_ray.learn.model import build, count_parameters
from mri_ray.learn.settings import ModelConfig
from mri_ray.prepare.settings import PrepareConfig

FORMAT = 1  # of bundle.json; a change of what a field means raises it
DOCUMENT, WEIGHTS, CARD = "bundle.json", "weights.safetensors", "model_card.md"

_FACTS = ("metrics", "operating", "training", "versions", "proofs", "reference")

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A trained network with the preparation, calibration and operating point that belong to it.

    weights: the network's state dict, copied to the CPU. labels: names of (class 0, class 1). temperature divides the
    logit; knots, if any, are corners of what is made of it then (`learn.calibrate`). threshold: a probability from
    there on is positive. refer: probabilities in [low, high) are referred; the band holds the threshold.
    study_threshold, study_refer: the same of studies and patients; without a threshold theirs are those of slices.
    metrics, operating (where the threshold comes from), training, versions: JSON-able facts, which the digest leaves
    out; so are proofs, `predict.ways.Proof` by way of computing, and reference, as of `learn.reference`.
    Raises BundleError for a value that breaks a rule or weights that do not fit the model.
    """

    model: ModelConfig
    prepare: PrepareConfig
    weights: dict[str, Tensor]
    labels: tuple[str, str] = ("normal", "tumor")
    temperature: float = 1.0
    threshold: float = 0.5
    refer: tuple[float, float] | None = None
    knots: Knots | None = None
    study_threshold: float | None = None
    study_refer: tuple[float, float] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    operating: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    proofs: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Values take the form that they have after loading (2 becomes 2.0), so that the digest is the same.
        settled = {
            "model": _as_loaded(self.model),
            "prepare": _as_loaded(self.prepare),
            "weights": {name: _own(tensor) for name, tensor in sorted(self.weights.items())},
            "labels": tuple(self.labels),
            "temperature": float(self.temperature),
            "threshold": float(self.threshold),
            "refer": _floats(self.refer),
            "knots": None if self.knots is None else tuple(_floats(knot) for knot in self.knots),
            "study_threshold": None if self.study_threshold is None else float(self.study_threshold),
            "study_refer": _floats(self.study_refer),
            **{name: _facts(name, getattr(self, name)) for name in _FACTS},
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        _check_calibration(self)
        _check_operating_point(self.threshold, self.refer)
        if self.study_threshold is not None:
            _check_operating_point(self.study_threshold, self.study_refer, "study_")
        elif self.study_refer is not None:
            raise BundleError(f"study_refer: needs a study_threshold, got {self.study_refer!r} alone")
        _check_weights(self)

    def calibrated(self, logits: ArrayLike) -> np.ndarray:
        """Raw logits -> those whose sigmoid is the probability, float64: all that answers goes through here."""
        return calibrated(logits, self.temperature, self.knots)

    @property
    def of_studies(self) -> tuple[float, tuple[float, float] | None]:
        """Threshold and band of studies and patients."""
        if self.study_threshold is None:
            return self.threshold, self.refer
        return self.study_threshold, self.study_refer

    @cached_property
    def weights_digest(self) -> str:
        return _digest_weights(self.weights)

    @cached_property
    def digest(self) -> str:
        """Names all that decides an answer: weights, settings, labels, temperature, operating point."""
        return _digest(self, self.weights_digest)


@dataclass(frozen=True, kw_only=True)
class _Document:
    """bundle.json, field by field; every one without a default is required, and no other is allowed."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: int
    digest: str
    weights_digest: str
    prepare_digest: str
    model: ModelConfig
    prepare: PrepareConfig
    labels: tuple[str, str]
    temperature: float
    threshold: float
    refer: tuple[float, float] | None
    metrics: dict[str, Any]
    training: dict[str, Any]
    versions: dict[str, Any]
    # Later than format 1, which they leave as it is where they are not there.
    proofs: dict[str, Any] = field(default_factory=dict)
    knots: Knots | None = None
    study_threshold: float | None = None
    study_refer: tuple[float, float] | None = None
    operating: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)


def module(bundle: Bundle) -> nn.Module:
    """The network with the bundle's weights (its own copy), in evaluation mode, on the CPU."""
    net = build(bundle.model)
    net.load_state_dict(bundle.weights)
    return net.eval()


def save(bundle: Bundle, location: Location, papers: Mapping[str, str] | None = None) -> str:
    """Write a bundle, in place of one that is there, and return its digest.

    papers: texts for people, by name; without any, the card tells what the bundle itself knows.
    """
    document = {
        "format": FORMAT,
        "digest": bundle.digest,
        "weights_digest": bundle.weights_digest,
        "prepare_digest": bundle.prepare.digest(),
    }
    for item in fields(bundle):
        if item.name != "weights":
            value = getattr(bundle, item.name)
            document[item.name] = asdict(value) if item.name in ("model", "prepare") else value
    if location.exists(DOCUMENT):
        location.delete(DOCUMENT)  # before its weights are replaced
    location.write(WEIGHTS, safetensors.torch.save(bundle.weights))
    for name, text in (papers or {CARD: _card(bundle)}).items():
        location.write(name, text.encode("utf-8"))
    location.write(DOCUMENT, json.dumps(document, indent=2, allow_nan=False).encode("utf-8"))
    return bundle.digest


def load(location: Location) -> Bundle:
    """Read a bundle and check it.

    Raises BundleError, naming the file, when one is missing, is of another format, breaks a rule, or is not what was
    saved.
    """
    document = _parse(_read(location, DOCUMENT), where := location.uri_of(DOCUMENT))
    if document.prepare.digest() != document.prepare_digest:
        raise BundleError(
            f"{where}: prepare must have the digest it was saved with, {document.prepare_digest}, got "
            f"{document.prepare.digest()}; the file was altered, or this mri_ray prepares pictures in another way"
        )
    if (found := _digest(document, document.weights_digest)) != document.digest:
        raise _altered(where, "settings", document.digest, found)
    data, where = _read(location, WEIGHTS), location.uri_of(WEIGHTS)
    try:
        weights = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as exc:
        raise BundleError(f"{where}: must be a safetensors file, got {exc}") from exc
    if (found := _digest_weights(weights)) != document.weights_digest:
        raise _altered(where, "weights", document.weights_digest, found)
    try:
        return Bundle(
            weights=weights,
            **{item.name: getattr(document, item.name) for item in fields(Bundle) if item.name != "weights"},
        )
    except BundleError as exc:
        raise BundleError(f"{location.uri}: {exc}") from exc


def _read(location: Location, name: str) -> bytes:
    try:
        return location.read(name)
    except FileNotFoundError as exc:
        raise BundleError(
            f"{location.uri_of(name)}: must be there, got nothing; a bundle is a folder with {DOCUMENT}, {WEIGHTS} "
            f"and {CARD}, and {DOCUMENT} is missing when saving was cut short"
        ) from exc
    except OSError as exc:
        raise BundleError(f"{location.uri_of(name)}: must be readable, got {type(exc).__name__}: {exc}") from exc


def _parse(data: bytes, where: str) -> _Document:
    try:
        version = json.loads(data)["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BundleError(f"{where}: must be a JSON object with a format, got {type(exc).__name__}: {exc}") from exc
    if type(version) is not int or version != FORMAT:
        newer = "; it was written by a newer mri_ray" if type(version) is int and version > FORMAT else ""
        raise BundleError(f"{where}: format: must be {FORMAT}, got {version!r}{newer}")
    try:
        return TypeAdapter(_Document).validate_json(data)
    except ValidationError as exc:
        raise BundleError(f"{where}: {'; '.join(_fault(fault) for fault in exc.errors())}") from exc


def _fault(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # a setting's own check, which names its field
        return f"{path}.{cause}"
    if fault["type"] == "missing":
        return f"{path}: is required, got nothing"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{path}: is no field of format {FORMAT}, got {fault['input']!r}"
    return f"{path}: {fault['msg']}, got {fault['input']!r}"


def _altered(where: str, what: str, saved: str, found: str) -> BundleError:
    return BundleError(
        f"{where}: {what} must have the digest they were saved with, {saved}, got {found}; "
        "the file was altered, or another save was cut short"
    )


def _digest(settings: Bundle | _Document, weights_digest: str) -> str:
    decisive = {name: getattr(settings, name) for name in ("labels", "temperature", "threshold", "refer")}
    # Bundles without them keep the digest that they had before there were such.
    more = {name: getattr(settings, name) for name in ("knots", "study_threshold", "study_refer")}
    decisive |= {name: value for name, value in more.items() if value is not None}
    decisive |= {"model": settings.model.decisive(), "prepare": settings.prepare.digest()}
    return digest_json({**decisive, "weights": weights_digest})


def _digest_weights(weights: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values; not of the file, whose layout is the library's affair."""
    parts: list[str | bytes] = []
    for name, tensor in sorted(weights.items()):
        values = tensor.contiguous().reshape(-1).view(torch.uint8)
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), values.numpy().tobytes()]
    return digest("weights", *parts)


def _as_loaded(config: Config) -> Config:
    return TypeAdapter(type(config)).validate_json(json.dumps(asdict(config)))  # type: ignore[call-overload]


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _facts(name: str, value: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError) as exc:
        raise BundleError(f"{name}: must be a mapping of plain JSON values, got {exc}") from exc


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _check_calibration(bundle: Bundle) -> None:
    labels = bundle.labels
    if len(labels) != 2 or labels[0] == labels[1] or not all(isinstance(label, str) and label for label in labels):
        raise BundleError(f"labels: must be two different names, got {labels!r}")
    if not 0 < bundle.temperature < math.inf:
        raise BundleError(f"temperature: must be above 0 and finite, got {bundle.temperature!r}")
    if bundle.knots is None:
        return
    corners = np.array(bundle.knots if all(len(knot) == 2 for knot in bundle.knots) else [])
    if len(corners) < 2 or not np.isfinite(corners).all() or not (np.diff(corners, axis=0) > 0).all():
        raise BundleError(
            "knots: must be two or more pairs (logit, calibrated logit), finite and both rising from one to the next, "
            f"got {bundle.knots!r}"
        )


def _check_operating_point(threshold: float, refer: tuple[float, float] | None, of: str = "") -> None:
    if not 0 <= threshold <= 1:
        raise BundleError(f"{of}threshold: must be from 0 to 1, got {threshold!r}")
    # A band beside the threshold would give positive, refer, positive as the probability rises.
    if refer is not None and not (len(refer) == 2 and 0 <= refer[0] <= threshold <= refer[1] <= 1):
        raise BundleError(
            f"{of}refer: must be (low, high) with 0 <= low <= threshold <= high <= 1, got {refer!r} "
            f"with threshold {threshold!r}"
        )


def _check_weights(bundle: Bundle) -> None:
    if bundle.prepare.size != bundle.model.input_size:
        raise BundleError(
            f"prepare.size: must be model.input_size {bundle.model.input_size}, got {bundle.prepare.size}"
        )
    with torch.device("meta"):  # shapes only, no memory
        expected = {name: (value.dtype, tuple(value.shape)) for name, value in build(bundle.model).state_dict().items()}
    given = {name: (value.dtype, tuple(value.shape)) for name, value in bundle.weights.items()}
    if faults := [name for name in {**expected, **given} if expected.get(name) != given.get(name)]:
        first = faults[0]
        raise BundleError(
            f"weights: must fit model {bundle.model.name}, which has {expected.get(first, 'nothing')} at {first}, "
            f"got {given.get(first, 'nothing')}; {len(faults)} differ in all"
        )
    if bad := [name for name, value in bundle.weights.items() if not value.isfinite().all()]:
        raise BundleError(f"weights: must be finite, got NaN or infinity in {', '.join(bad[:5])}")


def answers(bundle: Bundle) -> list[str]:
    """Sentences on how a bundle comes to its answer."""
    normal, tumor = bundle.labels
    size, parameters = bundle.prepare.size, count_parameters(build(bundle.model))
    band = (
        "No band of probabilities is referred."
        if bundle.refer is None
        else f"Probabilities from {bundle.refer[0]:g} to below {bundle.refer[1]:g} are referred to a reader undecided."
    )
    bent = "" if bundle.knots is None else f", after a rising map with {len(bundle.knots)} corners"
    compared = ", of how a head differs from its own mirror image" if bundle.prepare.asymmetry is not None else ""
    return [
        f"Network `{bundle.model.name}`, {parameters:,} parameters, on {size} x {size} grey pixels{compared}.",
        f"logit = z({tumor}) - z({normal}); probability = sigmoid(logit / {bundle.temperature:g}){bent}.",
        f"Positive from {bundle.threshold:g} on. {band}",
    ]


def intended_use(bundle: Bundle) -> str:
    return f"""The model gives one slice of an MR study of the head the probability that it shows `{bundle.labels[1]}`.
It is meant for research, for searching archives and for ordering worklists. It is not a medical device: no diagnosis
and no decision about treatment without review of the images by a qualified reader. It says nothing about other body
parts, other modalities, or scanners, sequences and patients unlike those it was trained on."""


def _card(bundle: Bundle) -> str:
    normal, tumor = bundle.labels
    how = "\n".join(f"* {sentence}" for sentence in answers(bundle))
    return f"""# Model card: slices of brain MRI, {normal} or {tumor}

Bundle `{bundle.digest}`.

## Intended use

{intended_use(bundle)}

## How it answers

{how}

## Training data

{table(bundle.training)}

## Figures

They hold for data like the above only. Where one is given, the interval in brackets is that of 95 % confidence.

{table(bundle.metrics)}

{_proofs(bundle)}## How to score with it

```sh
python -m jobs.score --config configs/score.yaml archive=URI_OF_THE_ARCHIVE bundle=URI_OF_THIS_FOLDER output=URI
```

Archive, bundle and output are local paths or `s3://bucket/prefix`. Loading refuses a bundle whose weights or settings
were changed after training.

## Versions

{table(bundle.versions)}
"""


def _proofs(bundle: Bundle) -> str:
    if not bundle.proofs:
        return ""
    return f"""## Faster ways to compute

How far their answers are from those of plain fp32, on slices of validation. `auto` takes a way only where no answer is
off by more than 0.01 and no decision is another one.

{table(bundle.proofs)}

"""


def table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in _rows(facts)]
    return "\n".join(["| what | value |", "|---|---|", *rows]) if rows else "None were recorded."


def _rows(facts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if name.endswith("_interval") and name.removesuffix("_interval") in facts:
            continue  # stands beside its figure
        if isinstance(value, Mapping):
            yield from _rows(value, f"{path}{name}.")
            continue
        interval = facts.get(f"{name}_interval")
        bounds = f" ({_text(interval[0])} to {_text(interval[1])})" if interval else ""
        yield _text(f"{path}{name}"), _text(value) + bounds


def _text(value: Any) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) if len(value) <= 8 else f"{len(value)} values"
    return str(value).replace("|", "\\|").replace("\n", " ")
