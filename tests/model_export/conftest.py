"""What the tests of several parts of model_export share."""

from model_export.studies.study import Scale

# A study that takes seconds.
TINY = Scale(
    data="drawings:train=48,val=24,side=32,difficulty=easy,classes=circle+cross",
    recipe=("--epochs", "1", "--batch-size", "24", "--workers", "0", "--precision", "fp32"),
    degradation=(8, 14),
    shortcuts=8,
    depth=(8, 14),
)
