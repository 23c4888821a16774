"""The choice of precision, and the contexts that follow from it."""

from pathlib import Path

import pytest
import torch

from mri_ray.errors import ConfigError
from mri_ray.learn import device as device_module
from mri_ray.learn.device import PRECISIONS, Precision, autocast, choose_device, choose_precision, place

CPU = torch.device("cpu")
GPU = torch.device("cuda")


def test_the_device_is_the_gpu_where_there_is_one() -> None:
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni", False),
        ("model name\t: bf16 by name only", False),
        ("", False),
    ],
)
def test_bf16_on_a_cpu_only_where_it_computes_it(tmp_path: Path, line: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert device_module._cpu_has_bf16(cpuinfo) is expected


def test_no_cpuinfo_means_fp32(tmp_path: Path) -> None:
    assert not device_module._cpu_has_bf16(tmp_path / "absent")


def test_auto_on_this_cpu_follows_the_processor() -> None:
    expected = Precision.BF16 if device_module._cpu_has_bf16() else Precision.FP32
    assert choose_precision("auto", CPU) is expected


@pytest.mark.parametrize(("supported", "expected"), [(True, Precision.BF16), (False, Precision.FP16)])
def test_auto_on_a_gpu_is_bf16_else_fp16(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: Precision) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_precision("auto", GPU) is expected


def test_a_named_precision_is_taken_at_its_word() -> None:
    assert choose_precision("fp32", GPU) is Precision.FP32
    assert choose_precision("bf16", CPU) is Precision.BF16
    assert choose_precision("fp16", GPU) is Precision.FP16
    assert "auto" in PRECISIONS


def test_unknown_precision_and_fp16_on_a_cpu_are_refused() -> None:
    with pytest.raises(ConfigError, match="precision: must be one of auto, fp32, bf16, fp16, got 'half'"):
        choose_precision("half", CPU)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_products_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(Precision(precision), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_place_makes_kernels_channels_last() -> None:
    conv = place(torch.nn.Conv2d(4, 4, 3), CPU)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
