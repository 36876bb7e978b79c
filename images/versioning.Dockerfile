# The data registry: DVC and git; the farewell and the watch, which record a night there, are run from it too.
# Built by `make images`; the build context is laid out by pipelines/kubeflow/images.py.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt images/install.sh images/requirements/versioning.txt ./
RUN --mount=type=bind,source=wheels,target=/wheels \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    sh install.sh versioning.txt
COPY components /app/components
COPY perception /app/perception
COPY pipelines /app/pipelines
RUN /opt/nightdrive/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
COPY images/finish.sh /tmp/finish.sh
RUN apt-get update && apt-get install -y --no-install-recommends git openssh-client && sh /tmp/finish.sh
COPY --from=build /opt/nightdrive /opt/nightdrive
COPY --from=build /app /app
ARG COMMIT=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="nightdrive-versioning" \
      org.opencontainers.image.description="Nightdrive: the stages that know the data registry" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/nightdrive/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    DVC_NO_ANALYTICS=1 \
    NIGHTDRIVE_COMMIT=${COMMIT}
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "components.stage", "--help"]
