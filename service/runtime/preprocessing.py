"""How an image becomes the network's input, as data: a part of the model card."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from service.runtime.card_part import CardPart

Interpolation = Literal["bilinear", "bicubic", "lanczos"]

# Pixels from 0 to 1 have a standard deviation of 0.5 at most, but some networks divide by 1 or a little more.
MAX_STD = 4.0


# How an image gets the size of the network's input. crop: its shorter side is resized and the centre cut out. squash:
# it is resized as it is, whatever becomes of its proportions. letterbox: it keeps them, and bars fill the rest.
Fit = Literal["crop", "squash", "letterbox"]

Side = Annotated[int, Field(ge=1)]
Grey = Annotated[int, Field(ge=0, le=255)]


class Views(CardPart):
    """Several crops of an image, whose probabilities the graph averages (section 3.4 of the paper).

    Attributes:
        count: 5: the corners and the centre of the input. 10: also their mirror images.
        size: the side of each, in pixels.
    """

    count: Literal[5, 10]
    size: Side


class Preprocessing(CardPart):
    """How a decoded RGB image becomes the network's input, uint8 `(channels, height, width)`.

    With one channel, that is the luma of the resized image (ITU-R BT.601), which the graph gives to all three channels
    of the network. The graph also applies `mean` and `std` (RGB, for pixels divided by 255). With `mean_image` it
    subtracts a mean per pixel, as in the paper; `mean` is then the average of that image.

    Attributes:
        resize: the shorter side, in pixels, before the centre is cut out; of no meaning for other fits than `crop`.
        crop: the size of the input, in pixels: the side of a square, or height and width.
        fill: the colour of the bars of a letterbox, RGB.
        window: the values of 16-bit images that become 0 and 255; what lies beyond becomes the same. None: by the bits
            that the file's sBIT chunk names, else by its largest value (`images.sixteen_bit`).
        views: what the graph cuts out of its input; None: it takes the input as it is.
    """

    resize: int = Field(default=256, ge=1)
    crop: Side | tuple[Side, Side] = 224
    fit: Fit = "crop"
    fill: tuple[Grey, Grey, Grey] = (0, 0, 0)
    channels: Literal[1, 3] = 3
    window: tuple[int, int] | None = None
    views: Views | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mean_image: bool = False

    @model_validator(mode="after")
    def _plausible(self) -> Preprocessing:
        if self.fit == "crop" and max(self.height, self.width) > self.resize:
            raise ValueError(
                f"crop {max(self.height, self.width)} is larger than the resized shorter side {self.resize}"
            )
        if self.window and not 0 <= self.window[0] < self.window[1] < 2**16:
            raise ValueError(f"the window {self.window} is not two rising values from 0 to 65535")
        if self.views and self.views.size > min(self.height, self.width):
            raise ValueError(f"views of {self.views.size} pixels do not fit into {self.width} x {self.height}")
        mean, std = (", ".join(f"{number:g}" for number in statistic) for statistic in (self.mean, self.std))
        if max(self.mean) > 1 or max(self.std) > MAX_STD:
            raise ValueError(f"mean {mean} and std {std} are for pixels from 0 to 255: divide them by 255")
        if min(self.mean) < 0 or min(self.std) <= 0:
            raise ValueError(f"mean {mean} and std {std} are impossible for pixels from 0 to 1")
        return self

    @property
    def height(self) -> int:
        """Of the input, in pixels."""
        return self.crop if isinstance(self.crop, int) else self.crop[0]

    @property
    def width(self) -> int:
        return self.crop if isinstance(self.crop, int) else self.crop[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        return self.channels, self.height, self.width

    @property
    def cuts_a_square(self) -> bool:
        """Whether the input is a square out of the resized image, as in the paper."""
        return self.fit == "crop" and self.height == self.width

    @property
    def is_classic(self) -> bool:
        """Whether it is the resize and the centre square of the paper, in colour: all that readers of schema 1 know."""
        return self.cuts_a_square and self.channels == 3 and self.window is None
