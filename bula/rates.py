"""List the rates of GPUs and hosts that plans assume.

GPUS are data sheets: dense rates, without sparsity. Each of these GPUs has bfloat16 tensor cores.
Older ones, such as the T4, only emulate bfloat16. ASSUMPTIONS are all other rates; the ones of GPUs
were not measured by this project.
"""

from typing import NamedTuple


class Gpu(NamedTuple):
    """A GPU by its vendor's data sheet."""

    bfloat16: float
    """FLOP/s of bfloat16 matmuls with float32 accumulation."""
    float32: float
    """FLOP/s in float32, for which torch does not use tensor cores by default."""
    memory: float
    """Memory in bytes."""
    bandwidth: float
    """Bytes per second between memory and processor."""
    source: str
    """Where the figures come from."""


GPUS = {
    "h100": Gpu(989e12, 67e12, 80e9, 3.35e12, "NVIDIA H100 data sheet, SXM"),
    "a100-80gb": Gpu(312e12, 19.5e12, 80e9, 2.039e12, "NVIDIA A100 data sheet, SXM"),
    "a100-40gb": Gpu(312e12, 19.5e12, 40e9, 1.555e12, "NVIDIA A100 data sheet, SXM"),
    "l40s": Gpu(362e12, 91.6e12, 48e9, 0.864e12, "NVIDIA L40S data sheet"),
    "l4": Gpu(121e12, 30.3e12, 24e9, 0.3e12, "NVIDIA L4 data sheet"),
    "rtx-4090": Gpu(165e12, 82.6e12, 24e9, 1.008e12, "NVIDIA Ada architecture paper"),
}

# Each assumption: its value, and its unit and source.
ASSUMPTIONS: dict[str, tuple[float, str]] = {
    "bandwidth_share": (0.6, "share of the memory bandwidth that decoding reaches"),
    "launch_us": (5, "microseconds of the host per kernel of torch; 4 to 6 are common"),
    "kernel_us": (2, "microseconds for which even a small kernel occupies the GPU"),
    "train_kernels": (274, "kernels per layer and micro-batch: 4,381 over 16 layers, traced"),
    "compiled_kernels": (80, "the same with torch.compile: 56 matmuls, attention, fused rest"),
    "forward_kernels": (30, "kernels per layer of a forward pass without adapter"),
    "transformers_layer_ms": (1.5, "milliseconds per layer and step of transformers' generate"),
    "vllm_step_ms": (3, "milliseconds per step of vLLM beside the memory traffic"),
    "llama_cpp_kernels": (16, "kernels per layer and token of llama.cpp"),
    "llama_cpp_host_ms": (1, "milliseconds of the host per token: sampling, HTTP"),
    "start_seconds": (20, "seconds until a stage has loaded libraries and model"),
    "vllm_start_seconds": (90, "seconds until vLLM has compiled and captured its graphs"),
    "lm_eval_start_seconds": (60, "seconds until lm-eval has its data sets and requests"),
    "judge_seconds": (3, "seconds per call of a judge over the network"),
    "download_mb": (50, "megabytes per second from the hub"),
    "host_gb": (1, "gigabytes per second that a stage reads, converts or writes"),
    "host_bandwidth_gb": (50, "gigabytes per second of the host's memory"),
    "dry_run_seconds": (60, "seconds of the dry run of the base model, at most"),
    "preprocess_rows": (870, "rows per second and core, measured on two cores (docs/data.md)"),
    "quantize_weights": (1.5e6, "weights per second and core, measured (docs/gpu.md)"),
    "rouge_ms": (2.8, "milliseconds per answer, measured on one core"),
    "bertscore_ms": (3, "milliseconds per answer in which BERTScore matches tokens on the host"),
    "encoder_parameters": (1.1e8, "parameters of BERTScore's encoder, as BERTimbau's base model"),
    "controls_seconds": (120, "seconds of stock answer, n-gram and compressors, 48,000 answers"),
    "compare_seconds": (120, "seconds of the permutation tests and the report"),
}


def assumed(name: str) -> float:
    """Return the value of an assumption."""
    return ASSUMPTIONS[name][0]
