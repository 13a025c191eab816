"""MLServer, as its documentation of custom runtimes shows it; its adaptive batching is set beside the model.

Its protocol (V2) is JSON, in which bytes travel in base64. Requests that were gathered into a batch arrive as one
whose input holds several images.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.model import asked_for, load


class Classifier(MLModel):
    async def load(self) -> bool:
        self.classifier = load(*asked_for())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = self.decode(payload.inputs[0], default_codec=Base64Codec)
        predictions = self.classifier.infer(np.stack([self.classifier.decode(image) for image in images]))
        class_ids = np.array([[one["class_id"] for one in best] for best in predictions])
        probabilities = np.array([[one["probability"] for one in best] for best in predictions])
        outputs = [
            NumpyCodec.encode_output("class_id", class_ids),
            NumpyCodec.encode_output("probability", probabilities),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
