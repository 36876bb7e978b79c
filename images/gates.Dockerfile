# The gates: Great Expectations and what it reads tables with.
# Built by `make images`; the build context is laid out by pipelines/kubeflow/images.py.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build
COPY constraints.txt images/install.sh images/requirements/gates.txt ./
RUN --mount=type=bind,source=wheels,target=/wheels \
    --mount=type=secret,id=pip --mount=type=secret,id=ca \
    sh install.sh gates.txt
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
LABEL org.opencontainers.image.title="nightdrive-gates" \
      org.opencontainers.image.description="Nightdrive: the gate stage" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/opt/nightdrive/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    GX_ANALYTICS_ENABLED=false \
    NIGHTDRIVE_COMMIT=${COMMIT}
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "components.stage", "--help"]
