"""Images/s of the engine by batch size and in mixed sizes, beside eager PyTorch.

Images start in host memory.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.gpu.plan import PRECISIONS, Device, Plan, Report, fault, mixed_rate, model_folder, open_cuda, per_second
from service.batch_sizes import PaddedSizes
from service.runtime.choices import FILES, Precision
from service.runtime.engine import Engine
from service.runtime.graph import INPUT
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import MODEL_FILES, read_card
from service.runtime.providers import ProviderUnavailable, cuda_options
from service.runtime.self_test import SelfTestFailed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IN_FLIGHT = 2  # batches queued in PyTorch before we wait for the first, as our engine has two lanes

Infer = Callable[[np.ndarray], object]


class Way(NamedTuple):
    """One way to compute a batch of uint8 images in host memory.

    Attributes:
        infer: makes the function that computes batches of a size.
        lanes: threads that each compute one batch after the other.
        mixed: whether that function takes smaller batches, too.
    """

    name: str
    precision: Precision
    infer: Callable[[int], Infer]
    lanes: int = 1
    mixed: bool = True


def run(plan: Plan, report: Report) -> None:
    """Measures every way at every batch size, then in mixed sizes. The row of a way that fails has its error."""
    folder = model_folder(plan)
    shape = read_card(folder).preprocessing.shape
    images = np.random.default_rng(0).integers(0, 256, (plan.sizes[-1], *shape), dtype=np.uint8)
    fastest, *others = reversed(PRECISIONS[plan.device])
    ways = (
        engine_ways(folder, [fastest], plan, report),
        torch_ways(plan),
        engine_ways(folder, others, plan, report),
        switched_ways(folder, plan),
    )
    for way in itertools.chain(*ways):  # each is freed before the next is made
        row: dict[str, object] = {"way": way.name, "precision": way.precision, "callers": way.lanes}
        try:
            for size in plan.sizes:
                row[str(size)] = rate(way, images[:size], plan.seconds)
            if way.mixed:
                # of sizes up to 64: the service forms no larger ones
                batch = images[: min(64, plan.sizes[-1])]
                row["mixed"] = together(way.lanes, mixed_rate, way.infer(len(batch)), batch, 2 * plan.seconds)
        except Exception as error:  # a result, too: out of memory, or an option that this GPU does not have
            row["error"] = fault(error)
        report.add("images/s", row)


def rate(way: Way, batch: np.ndarray, seconds: float) -> float:
    """Images/s of all lanes together, at one batch size."""
    infer = way.infer(len(batch))
    return len(batch) * together(way.lanes, per_second, lambda: infer(batch), seconds)


def together(lanes: int, measure: Callable[..., float], *arguments: object) -> float:
    """The sum of the rates that so many threads measure at once."""
    with ThreadPoolExecutor(lanes) as pool:
        return sum(pool.map(lambda _: measure(*arguments), range(lanes)))


def engine_ways(folder: Path, precisions: Sequence[Precision], plan: Plan, report: Report) -> Iterator[Way]:
    """Our engine as the service runs it. A precision that is refused gets a row with the reason."""
    for precision in precisions:
        try:
            engine = load_engine(
                folder,
                read_card(folder),
                provider=plan.device,
                precision=precision,
                threads=usable_cores(),
                lanes=usable_cores(),
                max_batch=plan.sizes[-1],
            )
        except (ProviderUnavailable, SelfTestFailed) as error:
            report.add("images/s", {"way": "engine", "precision": precision, "error": fault(error)})
            continue
        for lanes in sorted({engine.info.lanes, 1}, reverse=True):
            yield Way("engine", precision, functools.partial(_engine, engine, lanes), lanes)


def switched_ways(folder: Path, plan: Plan) -> Iterator[Way]:
    """Options of the CUDA provider that our engine does not use."""
    if plan.device == "cpu":
        return
    model, chosen = folder / MODEL_FILES[FILES["fp16"]], cuda_options("fp16")
    yield Way("CUDA graph, pinned memory", "fp16", functools.partial(graphed, model, chosen), mixed=False)
    for options in ({"prefer_nhwc": "0"}, {"fuse_conv_bias": "0"}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}):
        name = " ".join(f"{name}={value}" for name, value in options.items())
        yield Way(name, "fp16", functools.partial(one_session, model, chosen | options))


def _engine(engine: Engine, lanes: int, size: int) -> Infer:
    """As in the service: the batcher splits batches that would be padded."""
    splits = PaddedSizes(engine.seconds) if engine.seconds else None

    def infer(batch: np.ndarray) -> object:
        while len(batch):
            taken = splits.take(len(batch), lanes) if splits else len(batch)
            engine.infer(batch[:taken], alone=lanes == 1)
            batch = batch[taken:]
        return None

    return infer


def one_session(model: Path, options: dict[str, str], size: int) -> Infer:
    """One session for all batch sizes. In mixed sizes it shows what it costs to rebuild cuDNN's plans."""
    session = open_cuda(model, options)
    return lambda batch: session.run(["logits"], {INPUT: batch})


def graphed(model: Path, options: dict[str, str], size: int) -> Infer:
    """A CUDA graph over buffers on the GPU, which launches all kernels at once."""
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
    """Our network in PyTorch: from uint8 `(N, 3, H, W)` on the device to logits `(N, classes)`."""
    import torch

    from model_export.nets.serving_graph import Normalise
    from model_export.weights.random_weights import random_weights

    loaded = random_weights(plan.architecture)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[plan.precision]
    torch.backends.cudnn.benchmark = True  # in eager mode, the fastest of cuDNN's algorithms for each shape
    net = loaded.net.to(plan.device, dtype)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(loaded.preprocessing).to(plan.device)

    def forward(images: Tensor) -> Tensor:
        return net(normalise(images).to(dtype, memory_format=torch.channels_last))  # type: ignore[no-any-return]

    return forward


def torch_infer(forward: Callable[[Tensor], Tensor], device: Device, size: int) -> Infer:
    """Computes a batch, and waits for the batch of `IN_FLIGHT` calls earlier.

    Copies from pinned memory to the device, and the logits back. Filling the pinned memory does not count: a service
    would write its batches there.
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
