"""FastAPI, as tutorials show it: one `async` endpoint decodes and infers in the event loop, unbatched."""

from typing import Any

import numpy as np
from fastapi import FastAPI, Request

from benchmarks.peers.model import from_environment, load

app = FastAPI()
model = load(*from_environment())


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    image = model.decode(await request.body())
    return {"predictions": model.infer(image[np.newaxis])[0]}
