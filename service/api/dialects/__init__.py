"""The protocols of other servers: their paths, bodies, answers and errors, over the same pipeline as `/classify`.

They are not in the OpenAPI document: each is described where it comes from, which its module names.
"""

from __future__ import annotations

from service.api.dialects import tensorflow_serving, torchserve
from service.api.dialects.calls import form

FORMS = {"v1": form(tensorflow_serving.error), "predictions": form(torchserve.error)}  # by first part of the path
