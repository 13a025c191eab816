from __future__ import annotations

from pathlib import Path

from model_export.datasets.by_name import open_data
from model_export.drawings.pictures import STYLES, picture
from model_export.evaluation.images import evaluation_images


def test_the_part_of_a_folder_that_training_kept_for_validation(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for i in range(40):
        path = tree / f"{'ab'[i % 2]}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(0, i, STYLES["easy"].square(32)))
    whole = evaluation_images(str(tree))
    kept = evaluation_images(str(tree), val_share=0.25, seed=3)
    trained_on = open_data(str(tree), val_share=0.25, seed=3).train
    assert (len(whole), len(kept)) == (40, 10)
    titles = [{part.title(i) for i in range(len(part))} for part in (kept, trained_on)]
    assert not titles[0] & titles[1]


def test_the_validation_part_of_a_named_data_set() -> None:
    assert len(evaluation_images("drawings:train=12,val=24,side=32")) == 24
