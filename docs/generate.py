"""Regenerates the parts of docs/ that come from the code: run by `make docs`, checked by the tests."""

from pathlib import Path

from service.settings import settings_table

SETTINGS = """\
# Settings of the service

Each setting can be given in a file `.env` in the working directory, in the environment, or on the command line; the
later in this list, the stronger. Unknown settings are refused. `python -m service --help` prints the same.

"""

if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(SETTINGS + settings_table())
