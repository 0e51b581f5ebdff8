"""Measure the training step in float32, in bfloat16, compiled and as a CUDA graph against a step in the style of the public code."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from shine_hf.losses import ShineLoss

from ..speed.step import Step, make_batch, our_loss, reference_style_loss

Run = Callable[[], None]
REFERENCE = "reference style, float32"
_SYNCHRONIZING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def compiled_step(inputs: dict, device: str) -> Run:
    """Return our step in bfloat16 with a compiled model."""
    step = Step(our_loss, inputs, ShineLoss(), device, bf16=True)
    step.model = torch.compile(step.model)
    return step


def graphed_step(inputs: dict, device: str, bf16: bool) -> Run:
    """Return our step as one CUDA graph that contains forward, backward, clipping and optimizer."""
    step = Step(our_loss, inputs, ShineLoss(), device, bf16=bf16)
    step.optimizer = torch.optim.AdamW(step.model.parameters(), lr=1e-4, fused=True, capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    # The graph reads and writes the tensors of the step, so they must stay alive.
    graph.step = step
    return graph.replay


def variants(device: str, sizes: dict[str, int]) -> dict[str, Callable[[], Run]]:
    """Return name -> step factory; on a CPU, only the float32 variants."""
    inputs = make_batch(device=device, **sizes)
    shine = ShineLoss()
    found: dict[str, Callable[[], Run]] = {
        REFERENCE: lambda: Step(reference_style_loss, inputs, shine, device, our_kernels=False),
        "ours, float32": lambda: Step(our_loss, inputs, shine, device),
    }
    if device == "cuda":
        found |= {
            "ours, bfloat16": lambda: Step(our_loss, inputs, shine, device, bf16=True),
            "CUDA graph, float32": lambda: graphed_step(inputs, device, bf16=False),
            "CUDA graph, bfloat16": lambda: graphed_step(inputs, device, bf16=True),
            "compiled, bfloat16": lambda: compiled_step(inputs, device),
        }
    return found


def measure_steps(device: str, sizes: dict[str, int], repeats: int, until: float) -> dict[str, dict[str, float | str]]:
    """Return the time, profile and memory of each variant.

    Args:
        device: `cuda` or `cpu`.
        sizes: Arguments of `make_batch`.
        repeats: Turns of each variant; the variants alternate.
        until: Time (`time.monotonic`) after which no more variants are started.

    Returns:
        Variant -> milliseconds, ratio to the reference style, kernels and host synchronizations per step, utilization, memory; or its
        error.
    """
    found: dict[str, dict[str, float | str]] = {}
    steps: dict[str, Run] = {}
    for name, make in variants(device, sizes).items():
        if time.monotonic() > until:
            found[name] = {"skipped": "no time left"}
            continue
        _reset_memory(device)
        begin = time.monotonic()
        try:
            step = make()
            for _ in range(3):
                step()
            _synchronize(device)
            found[name] = {"seconds to prepare": time.monotonic() - begin, **profile_step(step, device)}
            steps[name] = step
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    milliseconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            milliseconds[name].append(1000 * _seconds(step, device))
    for name, values in milliseconds.items():
        found[name]["milliseconds"] = statistics.median(values)
    for name in milliseconds:
        if REFERENCE in milliseconds:
            found[name]["times as fast as the reference style"] = (
                found[REFERENCE]["milliseconds"] / found[name]["milliseconds"]
            )
    return found


def profile_step(step: Run, device: str, count: int = 3) -> dict[str, float]:
    """Return kernels, copies and synchronizations per step, the busy share of the device, and peak memory in MiB.

    On a CPU, operators are counted instead of kernels.
    """
    is_cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    _synchronize(device)
    with profile(activities=activities) as profiler:
        begin = time.perf_counter()
        for _ in range(count):
            step()
        _synchronize(device)
        wall = time.perf_counter() - begin
    events = profiler.events()
    on_device = [event for event in events if "CUDA" in str(event.device_type)]
    names = Counter(event.name for event in events)
    if not is_cuda:
        return {"operators per step": sum(count for name, count in names.items() if name.startswith("aten::")) / count}
    kernels = [event for event in on_device if not event.name.startswith(("Memcpy", "Memset"))]
    # The last synchronization of the block is from this function.
    waits = sum(number for name, number in names.items() if name in _SYNCHRONIZING) - 1
    return {
        "kernels per step": len(kernels) / count,
        "host synchronizations per step": waits / count,
        "copies to the host per step": sum("DtoH" in event.name for event in on_device) / count,
        "utilization": sum(event.time_range.elapsed_us() for event in kernels) / 1e6 / wall,
        "peak memory, MiB": torch.cuda.max_memory_allocated() / 2**20,
    }


def _seconds(step: Run, device: str, at_least: float = 0.2) -> float:
    """Return the mean seconds per step over at least `at_least` seconds."""
    begin, steps, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < at_least:
        # Several steps between two synchronizations, as in training.
        for _ in range(5 if device == "cuda" else 1):
            step()
            steps += 1
        _synchronize(device)
        elapsed = time.perf_counter() - begin
    return elapsed / steps


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset_memory(device: str) -> None:
    if device == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
