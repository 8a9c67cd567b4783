# The service and its trainer in one image. compose.yaml runs the service; one command of the shell is
#   docker build --tag gan-mhe:local . && docker run --rm --volume gan-mhe-data:/data gan-mhe:local train digits_cnn
# With a GPU: add --gpus all. The torch wheels carry their own CUDA libraries.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY gan_mhe gan_mhe
COPY server server
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
LABEL org.opencontainers.image.title="gan-mhe" \
      org.opencontainers.image.description="Training jobs for GANs with hyperspherically regularised discriminators"
RUN groupadd --gid 10001 gan && \
    useradd --uid 10001 --gid gan --home-dir /data --no-create-home gan && \
    install --directory --owner gan --group gan /data
COPY --from=build /venv /venv
# Everything that is written lies below /data, so the root file system may be read-only.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GAN_MHE_DATA_DIR=/data \
    GAN_MHE_CACHE=/data/cache \
    TORCH_HOME=/data/cache/torch
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
# The exec form makes the command PID 1, which gets the signal itself; no shell stands in between and drops it.
STOPSIGNAL SIGTERM
# Not urllib, which would send the question to a proxy where the container's environment names one.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('localhost', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["gan-mhe"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
