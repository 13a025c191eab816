"""Regenerates the pages of docs/ that come from the code: run by `make docs`, checked by the tests."""

from __future__ import annotations

import re
from pathlib import Path

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


def pages() -> dict[str, str]:
    """File name to text."""
    rows = [
        f"| `{problem.slug}` | {problem.status} | {problem.title} | {re.sub(r'{[^}]+}', '…', problem.remedy)} |\n"
        for problem in problem_types()
    ]
    return {"settings.md": SETTINGS + settings_table(), "problems.md": PROBLEMS + "".join(rows)}


if __name__ == "__main__":
    for name, text in pages().items():
        Path(__file__).with_name(name).write_text(text)
