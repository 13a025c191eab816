"""Trains or loads ResNets in PyTorch, proves and converts them to ONNX, and publishes them to a model folder."""

import os
import sys
import warnings

from resnet_commands import stranger

# As in `service`, whichever of the two is imported first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Modules of this package would fail to import from another `service`, without saying why. `python -m model_export`
# (whose argv[0] is "-m" as yet) says it itself.
if sys.argv[:1] != ["-m"] and (_fault := stranger("service")):
    warnings.warn(_fault, RuntimeWarning, stacklevel=2)
