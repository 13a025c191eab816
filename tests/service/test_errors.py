"""The problem documents."""

from __future__ import annotations

import string

import pytest

from service import errors
from service.errors import Problem, problem_types, retry_after_seconds

ALL = list(problem_types())


def example(problem: type[Problem]) -> Problem:
    """An instance with a value for every field that its texts name."""
    texts = problem.detail + problem.remedy
    fields = {name for _, name, _, _ in string.Formatter().parse(texts) if name}
    return problem(**dict.fromkeys(fields | {"retry_after", "allowed"}, 3))


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.__name__)
def test_documents_have_the_members_of_rfc_9457_and_a_remedy(problem: type[Problem]) -> None:
    document = example(problem).document()
    assert document["type"] == f"/problems/{problem.slug}"
    assert document["status"] == problem.status
    for member in ("title", "detail", "remedy"):
        assert document[member]
        assert "{" not in str(document[member])


def test_slugs_are_stable_and_distinct() -> None:
    slugs = [problem.slug for problem in ALL]
    assert len(set(slugs)) == len(slugs)
    assert errors.TruncatedImage.slug == "truncated-image"
    assert errors.NotAnImage.slug == "not-an-image"


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.__name__)
def test_clients_and_servers_are_blamed_rightly(problem: type[Problem]) -> None:
    is_server = issubclass(problem, errors.ServerProblem)
    assert (problem.status >= 500) == is_server
    assert 400 <= problem.status <= 599


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = [line.rstrip() for line in (errors.__doc__ or "").splitlines() if "── " in line]
    with_status = {line.split("── ")[1].split()[0]: int(line.split()[-1]) for line in drawn if line[-3:].isdecimal()}
    with_status |= {"ImageTooLarge": 413}  # its line ends in a remark
    assert with_status == {problem.__name__: problem.status for problem in ALL}


def test_members_fill_the_sentences() -> None:
    problem = errors.TooManyPixels(width=20000, height=10000, max_pixels=64)
    assert str(problem) == "The image is 20000x10000 pixels; at most 64 pixels are decoded."
    assert problem.document()["width"] == 20000


def test_without_a_near_one_the_known_parameters_are_listed() -> None:
    members = {"parameter": "url", "known": "a, b"}
    assert errors.UnknownParameter(**members).document()["remedy"] == "The parameters are a, b."
    near = errors.UnknownParameter(**members, nearest="a")
    assert near.document()["remedy"] == "Did you mean `a`? The parameters are a, b."


def test_retry_after() -> None:
    assert retry_after_seconds(0, 100) == 1
    assert retry_after_seconds(250, 100) == 3
    assert retry_after_seconds(250, 0) == 1  # nothing measured yet
    assert errors.Overloaded(queued=9, max_queue=9, retry_after=3).headers == {"Retry-After": "3"}
