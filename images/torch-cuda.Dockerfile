# Everything that learns or looks at pixels, with the CUDA build of torch, which brings its own CUDA libraries.
# Built by `make images`; the build context is laid out by pipelines/kubeflow/images.py.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt images/install.sh images/requirements/torch.txt ./
# Three equals signs: the build without a local version is the CUDA one, also where wheels of 2.x.y+cpu are at hand.
RUN sed -i 's/^torch==/torch===/' constraints.txt
RUN --mount=type=bind,source=wheels,target=/wheels \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    sh install.sh torch.txt
RUN /opt/nightdrive/bin/python -c 'import sys, torch; sys.exit(not torch.version.cuda and "this is torch without CUDA: the CUDA build is the one on the default index")'
COPY components /app/components
COPY perception /app/perception
RUN /opt/nightdrive/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
COPY images/finish.sh /tmp/finish.sh
RUN sh /tmp/finish.sh
COPY --from=build /opt/nightdrive /opt/nightdrive
COPY --from=build /app /app
ARG COMMIT=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="nightdrive-torch-cuda" \
      org.opencontainers.image.description="Nightdrive: the stages that train, with a GPU" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/nightdrive/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_MMAP_THRESHOLD_=4294967296 \
    MALLOC_TRIM_THRESHOLD_=68719476736 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NIGHTDRIVE_COMMIT=${COMMIT}
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "components.stage", "--help"]
