"""MLServer, as its documentation of custom runtimes shows it, with adaptive batching.

Its protocol (V2) is JSON, with bytes in base64. A batch of requests arrives as one request with several images.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.model import from_environment, load


class Classifier(MLModel):
    async def load(self) -> bool:
        self.classifier = load(*from_environment())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = self.decode(payload.inputs[0], default_codec=Base64Codec)
        predictions = self.classifier.infer(np.stack([self.classifier.decode(image) for image in images]))
        class_ids = np.array([[prediction["class_id"] for prediction in best] for best in predictions])
        probabilities = np.array([[prediction["probability"] for prediction in best] for best in predictions])
        outputs = [
            NumpyCodec.encode_output("class_id", class_ids),
            NumpyCodec.encode_output("probability", probabilities),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
