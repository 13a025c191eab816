"""What schemathesis asks the served model, which the protocol's document cannot name, and sends to /infer."""

from __future__ import annotations

from typing import Any

import schemathesis

SERVED = {"MODEL_NAME": "resnet8-cifar", "MODEL_VERSION": "1"}
PIXELS = {"name": "image", "shape": [1, 3, 32, 32], "datatype": "UINT8", "data": [7] * 3 * 32 * 32}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Every second request that the document allows gets a tensor that the model takes; others are refused.

    Another model would be 404, which the document does not have.
    """
    if case.path_parameters:
        case.path_parameters.update(SERVED)
    body, allowed = case.body, case.meta is not None and case.meta.generation.mode.is_positive
    if allowed and isinstance(body, dict) and len(body.get("inputs", ())) % 2:
        case.body = {name: body[name] for name in ("id",) if name in body} | {"inputs": [PIXELS]}
