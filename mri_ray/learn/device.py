"""What a network runs on, and how precisely."""

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from mri_ray.errors import ConfigError


class Precision(StrEnum):
    """In what convolutions and matrix products are computed; weights stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


PRECISIONS = ("auto", *(p.value for p in Precision))
_DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def choose_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """`auto` is the fastest that the device computes in hardware; anything else is taken at its word.

    bf16 on a processor without instructions for it is emulated, ten times slower than fp32. Raises ConfigError for an
    unknown name and for fp16 on a CPU, whose small range needs the loss scaling that only GPUs get here.
    """
    if wanted not in PRECISIONS:
        raise ConfigError(f"precision: must be one of {', '.join(PRECISIONS)}, got {wanted!r}")
    if wanted == Precision.FP16 and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU, use auto, fp32 or bf16; got 'fp16' on a CPU")
    if wanted != "auto":
        return Precision(wanted)
    if device.type == "cuda":
        # Before compute capability 8.0 bf16 is emulated, so "supported" must not count that.
        return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP16
    return Precision.BF16 if _cpu_has_bf16() else Precision.FP32


def _cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 itself: AVX512-BF16 or AMX, on Arm the BF16 extension."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux: the safe answer costs speed only
        return False
    words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The context in which a network runs forward."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision is not Precision.FP32)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, its kernels channels-last: twice as fast on CPUs, and what tensor cores want."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
