"""What a pipeline answers for one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from service.metrics import Stage
from service.runtime.graph import Output
from service.runtime.images.preview import DecodePath
from service.runtime.scores import TopK


class Classified(NamedTuple):
    """The answer to one image.

    Attributes:
        width, height: of the decoded image, upright, in pixels.
        seconds: by stage; `decode` on a core of the pool, `queue` waiting for a decode thread and then for the engine,
            `inference` of the whole batch. The metrics and the Server-Timing header read the same numbers.
        batch_size: images in its batch.
        outputs: of the graph, those that were asked for, as in `ModelCard.output_shapes`.
    """

    top: TopK
    width: int
    height: int
    seconds: Mapping[Stage, float]
    batch_size: int
    outputs: Mapping[Output, np.ndarray]


class Shown(NamedTuple):
    """The network's input, made from one image.

    Attributes:
        png: the crop.
        seconds: by stage; `decode` on a core of the pool, `queue` waiting for its thread.
    """

    png: bytes
    path: DecodePath
    seconds: Mapping[Stage, float]
