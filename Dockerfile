# One image for workers, Flower and producers. Which of them it is, the command says (compose.yaml).

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/dbt-relay
ENV PATH=/opt/dbt-relay/bin:$PATH
WORKDIR /build
# The dependencies first: their layer stays until the lock changes.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY producer producer
COPY workers workers
RUN pip install --no-deps .

FROM python:3.11.13-slim-bookworm
RUN groupadd --gid 10001 relay \
    && useradd --uid 10001 --gid relay --create-home --shell /usr/sbin/nologin relay \
    && mkdir --parents /srv/relay/warehouse \
    && chown --recursive relay:relay /srv/relay
COPY --from=build /opt/dbt-relay /opt/dbt-relay
ENV PATH=/opt/dbt-relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1
USER 10001:10001
WORKDIR /srv/relay
COPY --chown=10001:10001 dbt dbt
RUN dbt deps --project-dir dbt --profiles-dir dbt
CMD ["dbt-relay", "--help"]
