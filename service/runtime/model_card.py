"""The model card, which `model_export` writes and `service` reads: the contract between the two."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from service.runtime.card_part import CardPart
from service.runtime.choices import FILES, FilePrecision, Precision
from service.runtime.graph import Output
from service.runtime.head import Head
from service.runtime.measured import Accuracy, Calibration, MultiLabelAccuracy
from service.runtime.preprocessing import Preprocessing

# Where a bottleneck places its stride: "v1" (the paper) in the first 1x1, "v1.5" (torchvision) in the 3x3. Both have
# weights of identical shapes: only this field tells them apart.
Variant = Literal["v1", "v1.5"]

# Sections 3.3 and 4.1 of the paper. A: identity with zero-padded channels. B: projection where shapes change.
# C: projection everywhere. A plain net has None instead.
Shortcut = Literal["A", "B", "C"]

FILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"

# Neither models nor aliases are published under these names: `/v2/models/stats` is a path of the service, and the
# balancer hides every path that ends in `metrics`, whatever the prefix.
RESERVED_NAMES = ("metrics", "stats")


# What this code reads. It rises with a field without which a model would be served wrongly; other fields are simply
# added: older code ignores them, and keeps them in the versions that it publishes. A card is written with the lowest
# version that it needs (`ModelCard.needed_version`). 2: heads other than plain softmax, and
# preprocessing other than the classic one.
SCHEMA_VERSION = 2


class Architecture(CardPart):
    """Everything needed, besides the weights, to rebuild the network."""

    depth: int
    family: Literal["imagenet", "cifar"] = "imagenet"
    variant: Variant = "v1.5"
    shortcut: Shortcut | None = "B"
    num_classes: int = Field(default=1000, ge=1)

    @property
    def has_bottlenecks(self) -> bool:
        """Whether the network has bottlenecks; only then do v1 and v1.5 differ."""
        return self.family == "imagenet" and self.depth >= 50

    @property
    def channels(self) -> int:
        """Of the last feature map (table 1 and section 4.2 of the paper)."""
        return 64 if self.family == "cifar" else 2048 if self.has_bottlenecks else 512

    @property
    def halvings(self) -> int:
        """How often the network halves height and width, rounding up."""
        return 2 if self.family == "cifar" else 5

    @property
    def name(self) -> str:
        """The default name of a model: `resnet50`, `plain34`, `resnet20-cifar`."""
        kind = "plain" if self.shortcut is None else "resnet"
        return f"{kind}{self.depth}" + ("-cifar" if self.family == "cifar" else "")


class Label(CardPart):
    """One class. `wnid` is its WordNet id, for ImageNet classes."""

    name: str
    wnid: str | None = None

    @field_validator("name")
    @classmethod
    def _composed(cls, name: str) -> str:
        """Composes Unicode (NFC): macOS decomposes folder names, and both forms are the same class."""
        return unicodedata.normalize("NFC", name)


class Weights(CardPart):
    """Where the weights come from: `source` for people, `sha256` of the imported file (None if there was none).

    `license` is an SPDX identifier or free text; None if nobody has stated one.
    """

    source: str
    sha256: str | None = None
    license: str | None = None


class ImageSet(CardPart):
    """Images and their classes, by digest (`model_export.datasets.digests`)."""

    name: str
    images: int = Field(ge=1)
    sha256: str


class Training(CardPart):
    """How weights were trained: what it takes to train them again.

    Attributes:
        recipe: every setting of the recipe.
        train, val: the images to train and to validate on.
        started_from: None for a He-initialised network.
        device: "cpu" or "cuda".
        precision: of convolutions and matrix products.
        processes: that shared each batch.
        commit: of the trainer's source; ends in `-dirty` if that had changes. None if not known.
        versions: of Python and of packages.
    """

    recipe: dict[str, JsonValue]
    seed: int
    train: ImageSet
    val: ImageSet
    started_from: Weights | None = None
    device: str
    precision: Precision
    processes: int = Field(ge=1)
    commit: str | None = None
    versions: dict[str, str]


class Parity(CardPart):
    """How far the ONNX file is from PyTorch on the same inputs, as the export gate measured it."""

    batch_sizes: tuple[int, ...]
    max_abs_difference: float
    top1_agreement: float
    top5_agreement: float


CalibrationMethod = Literal["minmax", "entropy", "percentile"]


class Quantisation(CardPart):
    """How an int8 file was quantised: the method and images that set the activation ranges, and the float layers.

    Activations are uint8, weights symmetric int8 per channel, expressed by QuantizeLinear and DequantizeLinear nodes
    (QDQ).
    """

    method: CalibrationMethod
    dataset: str
    images: int = Field(ge=1)
    float_layers: tuple[str, ...] = ()


class Gate(CardPart):
    """How a lower precision compared with fp32 before it was published.

    All are fractions of the images. `accuracy_lost` is fp32's top-1 accuracy minus this file's (negative for a gain);
    None if the images have no labels that the model knows. `limit` is the loss that was allowed: of accuracy if there
    are labels, else of agreement.
    """

    dataset: str
    images: int = Field(ge=1)
    top1_agreement: float = Field(ge=0, le=1)
    accuracy_lost: float | None = Field(default=None, ge=-1, le=1)
    limit: float = Field(ge=0, le=1)


class ModelFile(CardPart):
    """One ONNX file of the folder. The fp32 file is checked against PyTorch, the others against the fp32 file.

    `file` is a plain name: a card cannot lead out of its folder. `gate` is for this file's own precision, `bf16` of the
    fp32 file for bf16, which is computed from it.
    """

    file: str = Field(pattern=FILE_PATTERN)
    sha256: str
    bytes: int
    parity: Parity | None = None
    gate: Gate | None = None
    bf16: Gate | None = None
    quantisation: Quantisation | None = None


class ModelCard(CardPart):
    """Everything known about one published version of one model."""

    schema_version: int = Field(default=1, ge=1)
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    created: datetime
    architecture: Architecture
    parameters: int
    weights: Weights
    training: Training | None = None  # None: not trained by this software, or by an older one
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    files: dict[FilePrecision, ModelFile]
    self_test_sha256: str
    classifier_sha256: str | None = None  # of the last layer by itself; None from older releases
    accuracy: Accuracy | MultiLabelAccuracy | None = None
    calibration: Calibration | None = None
    head: Head = Head()
    tools: dict[str, str]  # that exported it
    commit: str | None = None  # of the exporter's source, as in `Training`
    metadata: dict[str, str] = Field(default_factory=dict)  # the publisher's own; nothing here reads it

    @field_validator("schema_version")
    @classmethod
    def _known(cls, schema_version: int) -> int:
        if schema_version > SCHEMA_VERSION:
            raise ValueError(
                f"it is {schema_version}, and this code reads up to {SCHEMA_VERSION}: a later release published the "
                "model; upgrade to it"
            )
        return schema_version

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime) -> datetime:
        """Replaces pydantic's time zone by Python's: freed during interpreter exit, pydantic's may cause a SIGSEGV."""
        return created.astimezone(UTC)

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.architecture.num_classes} classes")
        self.head.check(len(self.labels))
        if self.head.multi_label and self.preprocessing.views is not None:
            raise ValueError("views average the probabilities of softmax, and the head is sigmoid")
        if "fp32" not in self.files:
            raise ValueError("the fp32 file is missing: every other precision is compared with it")
        if self.files["fp32"].parity is None:
            raise ValueError("the fp32 file has no parity: it was never checked against PyTorch")
        return self

    @property
    def parity(self) -> Parity:
        """The parity of the fp32 file."""
        parity = self.files["fp32"].parity
        assert parity is not None  # see _consistent
        return parity

    def gate(self, precision: Precision) -> Gate | None:
        """How a precision compared with fp32; None if it was not compared."""
        return self.files["fp32"].bf16 if precision == "bf16" else self.files[FILES[precision]].gate

    @property
    def compared(self) -> tuple[Precision, ...]:
        """The precisions below fp32 that were compared with it: those that `auto` may take."""
        return tuple(
            precision
            for precision, file in FILES.items()
            if precision != "fp32" and file in self.files and self.gate(precision) is not None
        )

    @property
    def output_shapes(self) -> dict[Output, tuple[int, ...]]:
        """Of the graph's outputs for one image, all float32."""
        views = self.preprocessing.views
        height, width = (views.size, views.size) if views else self.preprocessing.shape[1:]
        channels, halved = self.architecture.channels, 2**self.architecture.halvings
        return {
            "logits": (self.architecture.num_classes,),
            "embedding": (channels,),
            "feature_map": (channels, -(-height // halved), -(-width // halved)),
        }

    @property
    def temperature(self) -> float:
        """By which the logits are divided before they become probabilities; 1 without a calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @property
    def needed_version(self) -> int:
        """The lowest `schema_version` whose readers serve the model rightly."""
        return 1 if self.preprocessing.is_classic and self.head.is_plain else 2

    def to_json(self) -> str:
        """The text of `card.json`, with the `schema_version` that it needs."""
        return self.model_copy(update={"schema_version": self.needed_version}).model_dump_json(indent=2) + "\n"
