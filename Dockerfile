# Three images: `service` (CPU), `service-cuda` (NVIDIA GPUs) and `export` (makes models). See docs/containers.md.

# ---- dependencies: virtual environments, copied whole, so that pip and its leftovers stay behind ----

# pip installs only files with a SHA-256 in docker/requirements-*.txt, and only wheels: no package runs code here.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv --without-pip /venv
ENV PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all:
WORKDIR /project
COPY docker/requirements-build.txt ./
RUN pip install --no-cache-dir --requirement requirements-build.txt
# The project's metadata, without the source: a change of the source does not reinstall the dependencies.
COPY pyproject.toml LICENSE ./
RUN touch README.md && PIP_REQUIRE_HASHES= pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS build-service
COPY docker/requirements-service.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install --requirement requirements-service.txt \
    && PIP_REQUIRE_HASHES= pip --python /venv install --no-deps --no-index /wheels/*.whl

FROM build AS build-service-cuda
COPY docker/requirements-service-cuda.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install --requirement requirements-service-cuda.txt \
    && PIP_REQUIRE_HASHES= pip --python /venv install --no-deps --no-index /wheels/*.whl

FROM build AS build-export
# PyTorch's own index has builds without CUDA, 2 GB smaller. Only torch itself comes from there. With an empty
# TORCH_INDEX, torch comes from pip's usual index, and if that is a build with CUDA, so does what it needs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY docker/requirements-torch.txt docker/requirements-torch-cuda.txt docker/requirements-export.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement requirements-torch.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    case $(/venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))') in \
    *+cpu) pip --python /venv install --requirement requirements-export.txt ;; \
    *) pip --python /venv install --requirement requirements-export.txt --requirement requirements-torch-cuda.txt ;; \
    esac && PIP_REQUIRE_HASHES= pip --python /venv install --no-deps --no-index /wheels/*.whl

# The compiled resize. The compiler stays in this stage. (The Python of the base image includes its headers;
# libpython3-dev is for base images with Debian's Python.)
FROM build AS native
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY service service
RUN PIP_REQUIRE_HASHES= pip install --no-cache-dir --no-deps --no-build-isolation --target /native .

# ---- the images ----

FROM python:3.11-slim-bookworm AS runtime
# The home is /tmp, the only place written to besides /models and /cache, so the root can be read-only. The user owns
# /models and /cache because a new named volume takes over the owner of the folder it is mounted on.
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin resnet \
    && install --directory --owner=resnet --group=resnet /models /cache
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001

FROM runtime AS serving
ENV RESNET_HOST=0.0.0.0 RESNET_PORT=8000 RESNET_MODELS_DIR=/models RESNET_CACHE_DIR=/cache
EXPOSE 8000
# Readiness, not liveness: nginx starts once the replicas are healthy.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
replica = http.client.HTTPConnection('127.0.0.1', int(os.environ['RESNET_PORT']), timeout=2); \
replica.request('GET', '/healthz/ready'); \
sys.exit(replica.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]

FROM runtime AS export
LABEL org.opencontainers.image.title="resnet-service export" \
      org.opencontainers.image.description="Trains, checks and publishes ResNet models for the service" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-export /venv /venv
COPY resnet_commands.py /app/
COPY service /app/service
COPY --from=native /native/service/runtime/images/_resample.abi3.so /app/service/runtime/images/
COPY model_export /app/model_export
ENTRYPOINT ["python", "-m", "model_export"]
ENV RESNET_MODELS_DIR=/models
CMD ["quickstart"]
# last, because they change most often
ARG COMMIT=
ARG CREATED=
ARG VERSION=
ENV BUILD_COMMIT=$COMMIT
LABEL org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.created=$CREATED \
      org.opencontainers.image.version=$VERSION

FROM serving AS service-cuda
LABEL org.opencontainers.image.title="resnet-service, CUDA" \
      org.opencontainers.image.description="Serves ResNet image classification over HTTP, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-service-cuda /venv /venv
COPY resnet_commands.py /app/
COPY service /app/service
COPY --from=native /native/service/runtime/images/_resample.abi3.so /app/service/runtime/images/
# last, because they change most often
ARG COMMIT=
ARG CREATED=
ARG VERSION=
ENV BUILD_COMMIT=$COMMIT
LABEL org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.created=$CREATED \
      org.opencontainers.image.version=$VERSION

FROM serving AS service
LABEL org.opencontainers.image.title="resnet-service" \
      org.opencontainers.image.description="Serves ResNet image classification over HTTP, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-service /venv /venv
COPY resnet_commands.py /app/
COPY service /app/service
COPY --from=native /native/service/runtime/images/_resample.abi3.so /app/service/runtime/images/
# last, because they change most often
ARG COMMIT=
ARG CREATED=
ARG VERSION=
ENV BUILD_COMMIT=$COMMIT
LABEL org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.created=$CREATED \
      org.opencontainers.image.version=$VERSION
