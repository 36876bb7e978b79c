# Everything that learns or looks at pixels, with the CPU build of torch.
# Built by `make images`; the build context is laid out by pipelines/kubeflow/images.py.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt images/install.sh images/requirements/torch.txt ./
RUN --mount=type=bind,source=wheels,target=/wheels \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    sh install.sh torch.txt
RUN /opt/nightdrive/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda and "this is torch with CUDA: give pip the index or the folder of the CPU builds, PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS")'
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
LABEL org.opencontainers.image.title="nightdrive-torch-cpu" \
      org.opencontainers.image.description="Nightdrive: every other stage, without a GPU" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/nightdrive/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_MMAP_THRESHOLD_=4294967296 \
    MALLOC_TRIM_THRESHOLD_=68719476736 \
    NIGHTDRIVE_COMMIT=${COMMIT}
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "components.stage", "--help"]
