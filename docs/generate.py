"""Generates the pages of docs/ that come from the code, and the rules of Prometheus as an object of Kubernetes
(`make docs`); a test checks that they are up to date."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from model_export.training.recipe import Recipe, describe
from model_export.training.recipes import RECIPES
from service.api.problems import STATUS
from service.errors import fault_types
from service.settings import PREFIX, Settings
from service.settings_help import default_of

DOCS = Path(__file__).parent
ROOT = DOCS.parent

SETTINGS = """\
# Settings of the service

Set them in a file `.env` in the working directory, in the environment, or on the command line; the later in this list
overrides the earlier. Unknown settings are errors. `python -m service --help` prints the same.

"""

PROBLEMS = """\
# Problems

Every error response of the service, by its `type`, `/problems/<name>`. [api.md](api.md) shows an example.

| name | status | title | remedy |
|---|---|---|---|
"""


RECIPE_PAGE = """\
# Recipes

The defaults of `train`. Every field is an option of the same name (`--batch-size 64`; write `none`, `yes` and `no` for
such values). `train --recipe NAME --show` prints the result. `paper-imagenet` and `paper-cifar` are sections 3.4 and
4.2 of the paper (from ResNet-110 on, `paper-cifar` has `warmup_lr 0.01`). `modern` is torchvision's recipe for its
second ResNet weights without two parts that are not built: TrivialAugment (`--auto-augment ta_wide`) and repeated
augmentation (`--ra-sampler --ra-reps 4`). So expect less than the 80.858 % that torchvision reports for its ResNet-50.
`finetune` takes its sizes from the weights that it starts from.

"""


RULES = """\
# The groups of deploy/prometheus, by `python docs/generate.py`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: resnet
  labels:
    app.kubernetes.io/instance: resnet
    app.kubernetes.io/name: resnet
spec:
  groups:
"""


def settings_table() -> str:
    """A table of all settings."""
    rows = ["| environment and `.env` | command line | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        option = "--" + name.replace("_", "-")
        rows.append(
            f"| `{PREFIX}{name.upper()}` | `{option}` | {default_of(field) or '(unset)'} | {field.description} |"
        )
    return "\n".join(rows) + "\n"


def recipes() -> str:
    """A table of all recipes, then the meaning of each field."""
    columns = [dict(describe(recipe)) for recipe in RECIPES.values()]
    fields = [name for name in Recipe.model_fields if name != "name"]
    table = f"| | {' | '.join(RECIPES)} |\n|---|{'---|' * len(RECIPES)}\n"
    table += "".join(f"| `{name}` | {' | '.join(column[name] for column in columns)} |\n" for name in fields)
    meanings = "".join(
        f"- `{name}`: {' '.join((Recipe.model_fields[name].description or '').split())}\n"
        for name in fields
        if Recipe.model_fields[name].description
    )
    return f"{RECIPE_PAGE}{table}\n{meanings}"


def prometheus_rule() -> str:
    """The PrometheusRule of Kustomize, which cannot put a file into an object."""
    files = (ROOT / "deploy" / "prometheus" / name for name in ("recording-rules.yml", "alerts.yml"))
    groups = "".join(file.read_text().partition("\ngroups:\n")[2] for file in files)
    return RULES + textwrap.indent(groups, "  ")


def pages() -> dict[str, str]:
    """The text of each page, by its path from docs/."""
    rows = [
        f"| `{problem.slug}` | {STATUS[problem]} | {problem.title} | {re.sub(r'{[^}]+}', '…', problem.remedy)} |\n"
        for problem in fault_types()
    ]
    return {
        "settings.md": SETTINGS + settings_table(),
        "problems.md": PROBLEMS + "".join(rows),
        "recipes.md": recipes(),
        "../deploy/kubernetes/components/prometheus-rule/rules.yaml": prometheus_rule(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
