"""Stage 3, the engine: images/s from host memory by batch size and in mixed sizes, beside PyTorch in eager mode."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.gpu.plan import PRECISIONS, Device, Plan, Report, fault, mixed_rate, model_folder, open_cuda, per_second
from service.batching import PaddedSizes
from service.card import MODEL_FILES, ModelCard
from service.engine import FILES, INPUT, Engine, SelfTestFailed
from service.loading import load_engine
from service.providers import Compute, ProviderUnavailable, cuda_options, usable_cores

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IN_FLIGHT = 2  # batches that PyTorch is given before the first is waited for, as our engine has two lanes

Infer = Callable[[np.ndarray], object]


class Way(NamedTuple):
    """One way to compute a batch of uint8 images in host memory.

    Attributes:
        infer: for a batch size, what computes batches of it.
        callers: threads that each compute one batch after the other.
        mixed: whether one `infer` serves all sizes up to that it was made for.
    """

    name: str
    precision: Compute
    infer: Callable[[int], Infer]
    callers: int = 1
    mixed: bool = True


def run(plan: Plan, report: Report) -> None:
    """Every way at every batch size, then in mixed sizes. A way that fails says so in its row."""
    folder = model_folder(plan)
    crop = ModelCard.read(folder).preprocessing.crop
    images = np.random.default_rng(0).integers(0, 256, (plan.sizes[-1], 3, crop, crop), dtype=np.uint8)
    ways = engine_ways(folder, plan, report), torch_ways(plan), switched_ways(folder, plan)
    for way in itertools.chain(*ways):  # one after the other: each is gone before the next is made
        row: dict[str, object] = {"way": way.name, "precision": way.precision, "callers": way.callers}
        try:
            for size in plan.sizes:
                row[str(size)] = rate(way, images[:size], plan.seconds)
            if way.mixed:
                # of sizes up to 64: larger ones the service never forms
                batch = images[: min(64, plan.sizes[-1])]
                row["mixed"] = together(way.callers, mixed_rate, way.infer(len(batch)), batch, 2 * plan.seconds)
        except Exception as error:  # out of memory, an option that this GPU does not have: a result, too
            row["error"] = fault(error)
        report.add("images/s", row)


def rate(way: Way, batch: np.ndarray, seconds: float) -> float:
    """Images/s of all callers together, at one batch size."""
    infer = way.infer(len(batch))
    return len(batch) * together(way.callers, per_second, lambda: infer(batch), seconds)


def together(callers: int, measure: Callable[..., float], *arguments: object) -> float:
    """The sum of what so many threads measure at once."""
    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(lambda _: measure(*arguments), range(callers)))


def engine_ways(folder: Path, plan: Plan, report: Report) -> Iterator[Way]:
    """Our engine as it serves; a precision that is refused is a row without figures."""
    for precision in reversed(PRECISIONS[plan.device]):
        try:
            engine = load_engine(
                folder,
                ModelCard.read(folder),
                provider=plan.device,
                precision=precision,
                threads=usable_cores(),
                lanes=usable_cores(),
                max_batch=plan.sizes[-1],
            )
        except (ProviderUnavailable, SelfTestFailed) as error:
            report.add("images/s", {"way": "engine", "precision": precision, "error": fault(error)})
            continue
        for callers in sorted({engine.lanes, 1}, reverse=True):
            yield Way("engine", precision, functools.partial(_engine, engine, callers), callers)


def switched_ways(folder: Path, plan: Plan) -> Iterator[Way]:
    """What could be switched in our engine on CUDA."""
    if plan.device == "cpu":
        return
    model, chosen = folder / MODEL_FILES[FILES["fp16"]], cuda_options("fp16")
    yield Way("pinned memory", "fp16", functools.partial(pinned, model, chosen), mixed=False)
    yield Way("CUDA graph, pinned memory", "fp16", functools.partial(graphed, model, chosen), mixed=False)
    for options in ({"prefer_nhwc": "0"}, {"fuse_conv_bias": "0"}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}):
        name = " ".join(f"{name}={value}" for name, value in options.items())
        yield Way(name, "fp16", functools.partial(one_session, model, chosen | options))


def _engine(engine: Engine, callers: int, size: int) -> Infer:
    """As it is served: what would be padded is split first, as the batcher splits it."""
    splits = PaddedSizes(engine.seconds) if engine.seconds else None

    def infer(batch: np.ndarray) -> object:
        while len(batch):
            taken = splits.take(len(batch), callers) if splits else len(batch)
            engine.infer(batch[:taken], alone=callers == 1)
            batch = batch[taken:]
        return None

    return infer


def one_session(model: Path, options: dict[str, str], size: int) -> Infer:
    """A session for all batch sizes: in mixed sizes it shows what building plans anew costs."""
    session = open_cuda(model, options)
    return lambda batch: session.run(["logits"], {INPUT: batch})


def pinned(model: Path, options: dict[str, str], size: int) -> Infer:
    """From memory that the GPU can read by itself, for which the images have to be copied once more."""
    import torch

    session = open_cuda(model, options)
    shape = (size, *session.get_inputs()[0].shape[1:])
    buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()

    def infer(batch: np.ndarray) -> object:
        np.copyto(buffer, batch)
        return session.run(["logits"], {INPUT: buffer})

    return infer


def graphed(model: Path, options: dict[str, str], size: int) -> Infer:
    """A CUDA graph over buffers on the GPU: no kernel is launched one by one."""
    import torch

    options = options | {"enable_cuda_graph": "1"}
    session = open_cuda(model, options)
    shape = (size, *session.get_inputs()[0].shape[1:])
    (classes,) = session.get_outputs()[0].shape[1:]
    host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    images, logits = torch.empty(shape, dtype=torch.uint8, device="cuda"), torch.empty((size, classes), device="cuda")
    binding = session.io_binding()
    binding.bind_input(INPUT, "cuda", 0, np.uint8, shape, images.data_ptr())
    binding.bind_output("logits", "cuda", 0, np.float32, (size, classes), logits.data_ptr())

    def infer(batch: np.ndarray) -> object:
        host.numpy()[:] = batch
        images.copy_(host, non_blocking=True)
        torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        return logits.cpu()

    return infer


def torch_ways(plan: Plan) -> Iterator[Way]:
    """PyTorch in half precision (on a CPU in fp32) and channels_last."""
    forward = torch_forward(plan)
    yield Way("PyTorch eager", plan.precision, functools.partial(torch_infer, forward, plan.device))


def torch_forward(plan: Plan) -> Callable[[Tensor], Tensor]:
    """From uint8 `(N, 3, H, W)` on the device to logits `(N, classes)`: our network in PyTorch."""
    import torch

    from model_export.normalise import Normalise
    from model_export.random_weights import random_weights

    loaded = random_weights(plan.architecture)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[plan.precision]
    torch.backends.cudnn.benchmark = True  # the fastest of cuDNN's algorithms for each shape, in eager mode
    net = loaded.net.to(plan.device, dtype)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(loaded.preprocessing).to(plan.device)

    def forward(images: Tensor) -> Tensor:
        return net(normalise(images).to(dtype, memory_format=torch.channels_last))  # type: ignore[no-any-return]

    return forward


def torch_infer(forward: Callable[[Tensor], Tensor], device: Device, size: int) -> Infer:
    """Computes a batch, and waits for the one that was given `IN_FLIGHT` calls before.

    From pinned memory to the device, and the logits back. What is not copied into pinned memory first, a batch of the
    service would have been written there.
    """
    import torch

    if device == "cpu":

        @torch.inference_mode()
        def on_cpu(batch: np.ndarray) -> object:
            return forward(torch.from_numpy(batch))

        return on_cpu

    in_flight: deque[torch.cuda.Event] = deque()
    pinned: dict[int, Tensor] = {}

    @torch.inference_mode()
    def on_gpu(batch: np.ndarray) -> object:
        if len(batch) not in pinned:
            pinned[len(batch)] = torch.from_numpy(batch).pin_memory()
        logits = forward(pinned[len(batch)].to(device, non_blocking=True)).to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        in_flight.append(event)
        if len(in_flight) > IN_FLIGHT:
            in_flight.popleft().synchronize()
        return logits

    return on_gpu
