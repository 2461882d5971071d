# Three images (docs/install.md):
#   docker build --target runtime -t flawscope .          predicts, evaluates and calibrates exported models, no torch
#   docker build --target train -t flawscope:train .      everything, on the CPU
#   docker build --target station -t flawscope:station .  a station with exported models (docs/station-install.md)
# docker/check.py runs the steps below without a Docker daemon.

# By tag. By digest, so that not even the registry can change it:
#   --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
# where `docker buildx imagetools inspect python:3.11.14-slim-bookworm` tells the digest.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV VIRTUAL_ENV=/opt/flawscope
ENV PATH=/opt/flawscope/bin:$PATH

# Environments are made in stages of their own: neither sources nor pip's leftovers reach the images.
FROM base AS build
ENV PIP_NO_CACHE_DIR=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv "$VIRTUAL_ENV"
COPY constraints.txt ./

FROM build AS build-runtime
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install -c constraints.txt ".[openvino,report]"

FROM build AS build-train
# Builds for the CPU: those on PyPI bring gigabytes of CUDA. For a GPU: .../whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# without dependencies: this index has other versions of them than constraints.txt
RUN pip install -c constraints.txt --no-deps --index-url "$TORCH_INDEX" torch torchvision
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
COPY weights ./weights
RUN pip install -c constraints.txt ./weights ./weights/dinov2 ".[train,accurate,export,openvino,backbones,report]"

FROM build AS build-station
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
COPY station ./station
COPY line ./line
RUN pip install -c constraints.txt ".[openvino]" ./station "./line[plc]"

FROM base AS image
LABEL org.opencontainers.image.title="flawscope" \
      org.opencontainers.image.licenses="Apache-2.0"
# HOME: `docker run --user` may name anybody, and libraries want a place for their caches
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --no-create-home --uid 1000 flawscope
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["flawscope"]
CMD ["--help"]

FROM image AS train
COPY --from=build-train /opt/flawscope /opt/flawscope

FROM image AS station
USER 0
# pg_dump, for backups
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client \
    && rm -rf /var/lib/apt/lists/*
# a new volume gets the owner of the folder that it is mounted on
RUN install -d -o 1000 -g 1000 -m 0700 /data
COPY --from=build-station /opt/flawscope /opt/flawscope
USER 1000:1000
EXPOSE 8080

# last, so that a build without --target makes the small one
FROM image AS runtime
COPY --from=build-runtime /opt/flawscope /opt/flawscope
