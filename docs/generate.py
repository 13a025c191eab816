"""Regenerates the pages of docs/ that come from the code: run by `make docs`, checked by the tests."""

from __future__ import annotations

import re
from pathlib import Path

from model_export.training.recipe import RECIPES, Recipe, described
from service.errors import problem_types
from service.settings import settings_table

SETTINGS = """\
# Settings of the service

Each setting can be given in a file `.env` in the working directory, in the environment, or on the command line; the
later in this list, the stronger. Unknown settings are refused. `python -m service --help` prints the same.

"""

PROBLEMS = """\
# Problems

Every error the service answers with, by its `type`, `/problems/<name>`. [api.md](api.md) shows a document.

| name | status | title | remedy |
|---|---|---|---|
"""


RECIPE_PAGE = """\
# Recipes

What `train` does unless it is told otherwise; every field is an option of the same name (`--batch-size 64`; `none`,
`yes` and `no` where they are meant), and `train --recipe NAME --show` prints the result. `paper-imagenet` and
`paper-cifar` are sections 3.4 and 4.2 of the paper (from ResNet-110 on, the latter has `warmup_lr 0.01`); `modern` is
torchvision's recipe of its second weights as far as it concerns ResNets; `finetune` takes its sizes from the weights
that it starts from.

"""


def recipes() -> str:
    """A table of all recipes, then what the fields mean."""
    columns = [dict(described(recipe)) for recipe in RECIPES.values()]
    fields = [name for name in Recipe.model_fields if name != "name"]
    table = f"| | {' | '.join(RECIPES)} |\n|---|{'---|' * len(RECIPES)}\n"
    table += "".join(f"| `{name}` | {' | '.join(column[name] for column in columns)} |\n" for name in fields)
    meanings = "".join(
        f"- `{name}`: {' '.join((Recipe.model_fields[name].description or '').split())}\n"
        for name in fields
        if Recipe.model_fields[name].description
    )
    return f"{RECIPE_PAGE}{table}\n{meanings}"


def pages() -> dict[str, str]:
    """File name to text."""
    rows = [
        f"| `{problem.slug}` | {problem.status} | {problem.title} | {re.sub(r'{[^}]+}', '…', problem.remedy)} |\n"
        for problem in problem_types()
    ]
    return {
        "settings.md": SETTINGS + settings_table(),
        "problems.md": PROBLEMS + "".join(rows),
        "recipes.md": recipes(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        Path(__file__).with_name(name).write_text(text)
