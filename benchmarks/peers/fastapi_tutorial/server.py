"""The app of the tutorials: one `async` endpoint that decodes and infers where it stands. No batching."""

from typing import Any

import numpy as np
from fastapi import FastAPI, Request

from benchmarks.peers.model import asked_for, load

app = FastAPI()
model = load(*asked_for())


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    image = model.decode(await request.body())
    return {"predictions": model.infer(image[np.newaxis])[0]}
