"""GPUs that `rex-rl plan` knows: peak and bandwidth from their maker's data sheets, memory as nvidia-smi shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of GPU. Peaks are dense: data sheets often print twice as much, with sparsity."""

    name: str
    memory_gib: float
    bfloat16_flops: float
    float32_flops: float
    """Outside the tensor cores, which torch leaves alone in float32 unless told otherwise."""
    bytes_per_s: float

    def flops(self, width: int) -> float:
        """Peak for weights of `width` bytes."""
        return self.bfloat16_flops if width == 2 else self.float32_flops


GPUS = (
    # NVIDIA A100 80GB SXM data sheet (2022): 312 TFLOPS BF16, 19.5 FP32, 2,039 GB/s.
    Gpu(name="A100-80G", memory_gib=80.0, bfloat16_flops=312e12, float32_flops=19.5e12, bytes_per_s=2.039e12),
    # NVIDIA H100 SXM data sheet: 1,979 TFLOPS BF16 with sparsity, 67 FP32, 3.35 TB/s.
    Gpu(name="H100-80G", memory_gib=79.6, bfloat16_flops=989.5e12, float32_flops=67e12, bytes_per_s=3.35e12),
    # NVIDIA H200 SXM data sheet: 1,979 TFLOPS BF16 with sparsity, 67 FP32, 141 GB, 4.8 TB/s.
    Gpu(name="H200-141G", memory_gib=140.4, bfloat16_flops=989.5e12, float32_flops=67e12, bytes_per_s=4.8e12),
    # NVIDIA L40S data sheet: 733 TFLOPS BF16 with sparsity (362.05 dense), 91.6 FP32, 864 GB/s.
    Gpu(name="L40S-48G", memory_gib=45.0, bfloat16_flops=362.05e12, float32_flops=91.6e12, bytes_per_s=0.864e12),
)


def peak_of(device_name: str) -> float | None:
    """Peak bfloat16 operations a second of a device as torch names it; None for one that is not in the table.

    >>> peak_of("NVIDIA H200"), peak_of("NVIDIA GeForce RTX 3060")
    (989500000000000.0, None)
    """
    return next((gpu.bfloat16_flops for gpu in GPUS if gpu.name.split("-")[0] in device_name.split()), None)
