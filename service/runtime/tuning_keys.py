"""What the speed of a model depends on: the keys under which measurements are remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.runtime.choices import FILES, FilePrecision
from service.runtime.machine import versions
from service.runtime.model_card import ModelCard
from service.runtime.placement import Candidate, Placement
from service.runtime.providers import hardware

# Their versions decide how fast a model runs.
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino")


def key_of_files(placement: Placement, candidates: Sequence[Candidate]) -> dict[str, str]:
    """Holds for exactly these files."""
    return _key(placement, candidates, {name: file.sha256 for name, file in placement.card.files.items()})


def key_of_shape(placement: Placement, candidates: Sequence[Candidate]) -> dict[str, str]:
    """Holds for other weights of the same shape, too: there is as much to compute."""
    return _key(placement, candidates, _shapes(placement.card))


def _shapes(card: ModelCard) -> dict[FilePrecision, str]:
    shape = f"{card.architecture.model_dump_json()}; {card.preprocessing.crop} pixels"
    if card.preprocessing.channels != 3:
        shape += f", {card.preprocessing.channels} channel"
    if card.preprocessing.views:
        shape += f", {card.preprocessing.views.model_dump_json()}"
    # Of an int8 file it also matters which layers have stayed in float.
    quantised = {name: file.quantisation for name, file in card.files.items()}
    return {name: f"{shape}; float: {how.float_layers}" if how else shape for name, how in quantised.items()}


def _key(placement: Placement, candidates: Sequence[Candidate], files: Mapping[FilePrecision, str]) -> dict[str, str]:
    key = versions(PACKAGES) | {
        "candidates": "; ".join(" ".join(candidate) for candidate in candidates),
        "threads": str(placement.threads),
        "lanes": str(placement.lanes),
        "max_batch": str(placement.max_batch),
    }
    for candidate in candidates:
        key[f"file of {candidate.precision}"] = files[FILES[candidate.precision]]
        for name, value in hardware(candidate.provider, candidate.precision, placement.gpu).items():
            key[f"{' '.join(candidate)}: {name}"] = value
    return key
