"""Where workers run."""

from __future__ import annotations

import os
import re

import torch

from nmtasync.errors import UserError
from nmtasync.machine.cores import available_cores

MAX_CPU_WORKERS = 4
""""auto" takes at most this many CPU workers: with more, updates come later."""


MAX_WORKERS = 1024
"""More processes than this are a mistake."""


def cores_per_worker(num_workers: int) -> int:
    """Divide the cores among workers that run at the same time: one each at least."""
    return max(1, available_cores() // num_workers)


def resolve_devices(text: str) -> list[str]:
    """Parse the devices that the user wrote into a list, one for each worker.

    Args:
        text: "auto" or names with commas between them, for example "cuda:0,cuda:1" or "cpu,cpu".

    Raises:
        UserError: A name is no device, or the machine does not have it.
    """
    if text == "auto":
        cpus = ["cpu"] * min(available_cores(), MAX_CPU_WORKERS)
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or cpus
    names = text.split(",")
    if len(names) > MAX_WORKERS:
        raise UserError(
            f"names {len(names)} devices, and {MAX_WORKERS} are the most",
            where="asynchronous.devices",
            remedy="name fewer",
        )
    devices = [resolve_device(name.strip()) for name in names]
    if len({name.split(":")[0] for name in devices}) > 1:
        raise UserError(
            f"{text!r} mixes CPUs and GPUs, and the CPUs would only make updates staler",
            where="asynchronous.devices",
            remedy="name devices of one kind",
        )
    return devices


def resolve_device(name: str, where: str = "asynchronous.devices") -> str:
    """Check the name of one device; "cuda" is "cuda:0", "auto" the first GPU or the CPU.

    Args:
        name: What the user wrote.
        where: The option that names it.

    Raises:
        UserError: It is no device, or the machine does not have it.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        return "cuda:0" if num_gpus else "cpu"
    name = "cuda:0" if name == "cuda" else name
    match = re.fullmatch(r"cpu|cuda:(\d+)", name)
    if not match:
        raise UserError(
            f"{name!r} is no device",
            where=where,
            remedy="write auto, cpu or cuda:N; several workers' with commas, as cpu,cpu",
        )
    if match[1] and int(match[1]) >= num_gpus:
        have = f"has {num_gpus} GPU(s)" if num_gpus else "has no GPU that PyTorch can use"
        raise UserError(f"there is no {name}: this machine {have}", where=where)
    return name


def allow_tf32(device: str, allowed: bool) -> None:
    """Let this process's float32 matrix products on a GPU be rounded to TF32, or not.

    PyTorch's own default is no for products and yes for cuDNN's recurrent networks.

    Raises:
        UserError: It is allowed, and the device is no GPU.
    """
    if device != "cpu":
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
    elif allowed:
        raise UserError(
            "has no effect, for there is no GPU among asynchronous.devices",
            where="training.tf32",
            remedy="remove it",
        )


def refuse_allocator_without_ipc(devices: list[str]) -> None:
    """Refuse an allocator whose GPU memory the processes of workers and server can't share.

    Raises:
        UserError: The environment asks PyTorch for an allocator whose memory can't be shared, or
            only where processes may take each other's file descriptors.
    """
    if len(devices) == 1 or devices[0] == "cpu":
        return
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        wanted = os.environ.get(variable, "").lower().replace(" ", "").split(",")
        for setting in ("expandable_segments:true", "backend:cudamallocasync"):
            if setting in wanted:
                raise UserError(
                    f"asks for {setting}, whose memory several workers can't share with the server",
                    where=variable,
                    remedy="take it out of the variable",
                )


def refuse_repeated_gpus(devices: list[str]) -> None:
    """Refuse devices by which two ranks of synchronous training would share a GPU."""
    gpus = [name for name in devices if name != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise UserError(
            f"names a GPU twice in {','.join(devices)}, which NCCL does not allow while "
            "asynchronous.driver is 'synchronous'",
            where="asynchronous.devices",
            remedy="name each GPU once, or raise data.batch_tokens or optimizer_delay instead",
        )
