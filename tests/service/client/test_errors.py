from __future__ import annotations

import pickle

import pytest

from service import errors as faults
from service import json_faults
from service.api.problems import document, status_of
from service.client import errors
from service.client.errors import Problem, Refused
from service.errors import RequestFault, fault_types
from service.runtime.faults import TruncatedImage

# What has to do with the images: their number, bytes, form and way here.
OF_IMAGES = {
    *(faults.MalformedRequest, faults.NoImage, faults.RequestTooLarge, faults.TooManyImages, faults.SeveralImages),
    *(faults.RequestTimeout, faults.UnreadableRequest, faults.AddressTooLong, faults.HeadersTooLarge),
    *(faults.RepeatedHeader, faults.UnsupportedMediaType, faults.UnsupportedEncoding),
    *(json_faults.MalformedJson, json_faults.NotBase64, json_faults.AddressAsImage, faults.RequestNeedsTooMuchMemory),
}


def test_a_problem_of_the_service() -> None:
    problem = Problem.read(document(TruncatedImage(received=7), "/prefix", "id"))
    assert (problem.type, problem.slug, problem.status) == ("/prefix/problems/truncated-image", "truncated-image", 422)
    assert (problem.title, problem.remedy) == (TruncatedImage.title, TruncatedImage.remedy)
    assert (problem.request_id, problem.members) == ("id", {"received": 7})
    assert str(problem).startswith("The image is truncated (422). The image ends before")


@pytest.mark.parametrize("wrong", [{}, {"status": "422"}])
def test_what_is_no_problem(wrong: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Problem.read(wrong)


def test_a_document_of_another_server() -> None:
    problem = Problem.read({"status": 404, "error": "Not Found"})
    assert (problem.type, problem.title, problem.members) == ("about:blank", "Not Found", {"error": "Not Found"})


def test_a_status_that_nobody_knows() -> None:
    assert str(Problem.of_status(599, "")) == "Unknown status (599)."


def test_which_refusals_are_for_every_image() -> None:
    """Every fault of a request is either one of the images in it, or of all images that could be sent."""
    for fault in fault_types(RequestFault):
        if status_of(fault.__new__(fault)) == 429:
            continue
        problem = Problem(f"/problems/{fault.slug}", fault.title, status_of(fault.__new__(fault)), "")
        assert Refused("", problem).whatever_the_image == (fault not in OF_IMAGES), fault


def test_errors_survive_a_process_boundary() -> None:
    error = Refused("text", Problem.of_status(404, "detail"), "id")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.problem, again.request_id) == (
        Refused,
        "text [request id]",
        error.problem,
        "id",
    )


def test_the_tree_of_the_docstring() -> None:
    assert errors.__doc__ is not None
    drawn = {line.split()[1] for line in errors.__doc__.splitlines() if line.startswith(("├", "└"))}
    assert drawn == {cls.__name__ for cls in errors.ResnetError.__subclasses__()}
