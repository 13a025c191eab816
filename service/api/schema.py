"""The bodies of requests and responses, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.references import State
from service.runtime.choices import Precision, ProviderName
from service.runtime.head import HeadKind
from service.runtime.measured import Accuracy, Calibration, MultiLabelAccuracy, Rejection
from service.runtime.model_card import Gate, ImageSet, Shortcut, Variant, Weights
from service.runtime.preprocessing import Fit, Interpolation


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A page that explains it; stable.")
    title: str
    status: int
    detail: str
    remedy: str
    request_id: str = Field(description="As in the header X-Request-ID and in the log.")


class Prediction(BaseModel):
    class_id: int = Field(examples=[1])
    label: str = Field(examples=["triangle"])
    probability: float = Field(examples=[0.9987])


class ImageResult(BaseModel):
    """One image of the request, in its order: either `predictions` and the size, or `error`."""

    file: str | None = Field(default=None, description="The file name in the form.", examples=["photo.jpg"])
    width: int | None = Field(default=None, description="As decoded, upright, in pixels.", examples=[500])
    height: int | None = Field(default=None, examples=[375])
    predictions: list[Prediction] | None = Field(default=None, description="Most probable first.")
    labels: list[Prediction] | None = Field(
        default=None,
        description="Of multi-label models: all classes that are present, by the threshold of each; most probable "
        "first, perhaps none.",
    )
    label: str | None = Field(
        default=None,
        description="Of models that may reject: the best class; null if `rejected`.",
        examples=["triangle"],
    )
    rejected: bool | None = Field(
        default=None,
        description="Of models that may reject: whether even the best class is less probable than the model's "
        "threshold.",
    )
    mass: float | None = Field(
        default=None,
        description="With `labels` in the request, of softmax: the probability of these classes together, before it "
        "was made 1.",
    )
    error: Problem | None = None


class AnsweredBy(BaseModel):
    model: str = Field(examples=["resnet50"])
    depth: int = Field(examples=[50])
    version: int = Field(examples=[1])
    provider: ProviderName = Field(examples=["cpu"], description="The execution provider that computed the answer.")
    precision: Precision = Field(examples=["int8"], description="The precision of the arithmetic.")


class Classification(AnsweredBy):
    restricted_to: list[str] | None = Field(
        default=None, description="The classes that `labels` in the request names; no others came into question."
    )
    images: list[ImageResult]


class EmbeddedImage(BaseModel):
    """One image of the request, in its order: either `embedding` and the size, or `error`."""

    file: str | None = Field(default=None, description="The file name in the form.", examples=["photo.jpg"])
    width: int | None = Field(default=None, description="As decoded, upright, in pixels.", examples=[500])
    height: int | None = Field(default=None, examples=[375])
    embedding: list[float] | None = None
    error: Problem | None = None


class Embeddings(AnsweredBy):
    dimensions: int = Field(examples=[2048])
    normalized: bool = Field(description="Whether embeddings have the length 1.")
    images: list[EmbeddedImage]


class ExplainedImage(BaseModel):
    """The image, and what the network sees of it.

    The box is in pixels of the upright image, from its upper left corner. A letterbox reaches beyond the image.
    """

    file: str | None = Field(default=None, description="The file name in the form.", examples=["photo.jpg"])
    width: int = Field(description="As decoded, upright, in pixels.", examples=[500])
    height: int = Field(examples=[375])
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right and bottom of what the network sees: the maps cover it.",
        examples=[(62.5, 0.0, 437.5, 375.0)],
    )


class ExplainedClass(BaseModel):
    class_id: int = Field(examples=[1])
    label: str = Field(examples=["triangle"])
    probability: float = Field(examples=[0.9987])
    logit: float = Field(description="As the engine computed it.", examples=[9.25])
    bias: float = Field(description="What the class has without any image.", examples=[-0.0125])
    map: list[list[float]] = Field(
        description="Rows of places, from above. Their mean and the bias add up to the logit: a positive place speaks "
        "for the class, a negative one against it."
    )


class Explanation(AnsweredBy):
    image: ExplainedImage
    explanations: list[ExplainedClass] = Field(description="Most probable first.")


class HeadInfo(BaseModel):
    """What the logits mean. /models/{name}/labels has the thresholds of a sigmoid head."""

    kind: HeadKind = Field(description="softmax: one class for each image; sigmoid: every class by itself.")
    rejection: Rejection | None = Field(description="Below which probability of the best class none is answered.")


class Input(BaseModel):
    """How the service prepares an image for a model."""

    height: int = Field(examples=[224])
    width: int = Field(examples=[224])
    channels: int = Field(examples=[3], description="3: RGB. 1: grey.")
    fit: Fit = Field(
        description="crop: the shorter side is resized to `resize` pixels and the centre cut out. squash: the image is "
        "resized as it is. letterbox: it keeps its proportions, and bars of the colour `fill` are added."
    )
    resize: int | None = Field(default=None, examples=[256])
    fill: tuple[int, int, int] | None = Field(default=None, examples=[(0, 0, 0)])
    interpolation: Interpolation
    window: tuple[int, int] | None = Field(
        default=None, description="The values of 16-bit images that become black and white; null: by the file."
    )


class CandidateInfo(BaseModel):
    provider: str
    precision: str
    lanes: int = Field(description="How many batches run at once.")
    lone_ms: float = Field(description="Milliseconds for one image on an idle engine.")
    images_per_second: dict[int, float] = Field(
        description="Of the engine alone under load, by batch size. Sizes end where larger ones gain nothing; a "
        "candidate that cannot win is measured with few."
    )
    chosen: bool = Field(description="The fastest under load; ties go to the fastest for a single image.")


class TuningInfo(BaseModel):
    remembered: bool = Field(description="Whether it comes from an earlier start.")
    candidates: list[CandidateInfo] = Field(description="All measured candidates, the chosen one first.")


class TrainingInfo(BaseModel):
    """Attributes as of `model_card.Training`, without the trainer's software, which is in the card."""

    recipe: dict[str, JsonValue]
    seed: int
    train: ImageSet
    val: ImageSet
    started_from: Weights | None = Field(description="null: a network with He-initialised weights.")
    device: str
    precision: Precision = Field(description="Of convolutions and matrix products.")
    processes: int = Field(description="That shared each batch.")


class ModelInfo(BaseModel):
    name: str
    references: list[str] = Field(description="What `?model=` means this version by, besides its number.")
    default: bool = Field(description="Whether it answers requests that name no model.")
    depth: int
    version: int
    variant: Variant = Field(description="v1: a bottleneck's stride in its first 1x1; v1.5: in its 3x3.")
    shortcut: Shortcut | None = Field(description="null: a plain net.")
    parameters: int
    weights: Weights = Field(description="`license` null: nobody has stated one.")
    training: TrainingInfo | None = Field(description="How the weights were trained; null if that is not recorded.")
    accuracy: Accuracy | MultiLabelAccuracy | None
    head: HeadInfo
    calibration: Calibration | None = Field(
        description="Applied to every probability: the logits are divided by the temperature."
    )
    classes: int
    input: Input
    state: State
    reason: str | None = Field(description="Why it failed.")
    precision: Precision | None = Field(description="The precision of the arithmetic, once loaded.")
    gate: Gate | None = Field(description="What this precision loses compared with fp32, if that was measured.")
    provider: ProviderName | None = Field(description="The execution provider in use, once loaded.")
    refused: dict[str, str] = Field(
        description="Providers and precisions that were not measured, with the reason, by name."
    )
    batch_sizes: list[int] = Field(description="The batch sizes in use, ascending.")
    lanes: int | None = Field(description="How many batches run at once.")
    tuning: TuningInfo | None = Field(description="The measurements on this machine; null before them.")


class CandidateVersion(BaseModel):
    name: str
    version: int
    state: State = Field(description="loading, or failed. A failed one is not tried again until its card changes.")
    reason: str | None = Field(description="Why it failed.")


class ModelList(BaseModel):
    depths: list[int]
    default: str | None = Field(description="What requests get that name no model; null: they are refused.")
    models: list[ModelInfo]
    candidates: list[CandidateVersion] = Field(
        description="Versions that shall answer requests and do not, as they load or have failed: others go on."
    )
    unreadable: dict[str, str] = Field(description="What is published and cannot be read, with the reason.")


class LabelInfo(BaseModel):
    class_id: int
    name: str
    wnid: str | None = Field(default=None, description="The WordNet id, for ImageNet's classes.")
    threshold: float | None = Field(
        default=None, description="Of multi-label models: the probability from which on the class is present."
    )


class Accepted(BaseModel):
    status: Literal["looking"]


class Health(BaseModel):
    status: str


class Build(BaseModel):
    """Attributes as of `build.Build`."""

    version: str
    commit: str | None
    python: str
    onnxruntime: str
