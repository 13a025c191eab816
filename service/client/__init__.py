"""A client of the service, for Python programs: the extra `client`.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("photo.jpg").best)

`AsyncClient` is the same for asyncio. Importing this package brings no server, no engine and no NumPy.
"""

try:
    import httpx  # noqa: F401
except ModuleNotFoundError as error:
    error.add_note("service.client needs an extra: pip install 'resnet-service[client]'")
    raise

from service.client.async_client import AsyncClient
from service.client.errors import (
    ConnectionFailed,
    DeadlineMissed,
    Failed,
    Problem,
    Refused,
    ResnetError,
    Unavailable,
)
from service.client.images import Image
from service.client.results import Classification, ClassMap, Explanation, Model, Outcome, Prediction, Preview
from service.client.sync_client import Client

__all__ = [
    "AsyncClient",
    "ClassMap",
    "Classification",
    "Client",
    "ConnectionFailed",
    "DeadlineMissed",
    "Explanation",
    "Failed",
    "Image",
    "Model",
    "Outcome",
    "Prediction",
    "Preview",
    "Problem",
    "Refused",
    "ResnetError",
    "Unavailable",
]
