"""What schemathesis sends where the document says `binary`, and what it leaves out because no document can say it."""

from __future__ import annotations

import io
import re
from base64 import b64encode

import schemathesis
from hypothesis import strategies as st
from PIL import Image

FIELDS = ("model", "depth", "top_k", "labels", "classes", "format", "normalize")


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (20, 120, 220)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {f"image/{kind}": picture(kind) for kind in ("jpeg", "png", "webp")}

TEXTS = [b64encode(data).decode() for data in PICTURES.values()]

schemathesis.openapi.format("binary", st.sampled_from(sorted(PICTURES.values())))
schemathesis.openapi.format("base64", st.sampled_from(sorted([*TEXTS, f"data:image/png;base64,{TEXTS[1]}"])))
for media_type, data in PICTURES.items():
    schemathesis.openapi.media_type(media_type, st.just(data))


def left_out(case: schemathesis.Case, form: dict[str, object]) -> bool:
    """Whether all that shall be wrong with a form are rules for parameters that it does not have."""
    data = case.meta.phase.data
    places = [getattr(data, "location", None), *(one.schema_pointer for one in getattr(data, "mutations", ()))]
    rules = [re.fullmatch(r"/patternProperties/\^(\w+)\$", place) for place in places if place]
    return bool(rules) and all(rule and rule[1] not in form for rule in rules)


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Without a parameter in both query and form, where they must agree, and without lists, which a form cannot hold
    for a parameter: an empty one would be no field. Nor with a form that counts as wrong because of parameters that it
    does not have: schemathesis made the rules for them wrong, and then left them out. Nor with a form that names
    classes: no document knows which there are, and in a form no dictionary helps. Nor with an empty parameter in place
    of a number: it counts as not given. Nor with a picture of chosen classes: it shows only one.
    """
    form = case.body if isinstance(case.body, dict) else {}
    if left_out(case, form) or {"labels", "classes"} & form.keys() or "" in (case.query or {}).values():
        return False
    given = {name: form[name] for name in FIELDS if name in form}
    if (asked := given | (case.query or {})).get("format") == "png" and asked.keys() & {"classes", "top_k"}:
        return False
    return not given.keys() & (case.query or {}).keys() and not any(isinstance(one, list) for one in given.values())
