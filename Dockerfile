# Training image: `docker build -t gan-mhe . && docker run --rm -v gan-mhe-runs:/runs gan-mhe train digits_cnn --run-dir /runs/first`
# With a GPU: add --gpus all. The torch wheels carry their own CUDA libraries.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY configs configs
COPY gan_mhe gan_mhe
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 gan && mkdir -p /runs /cache && chown gan:gan /runs /cache
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH GAN_MHE_CACHE=/cache PYTHONUNBUFFERED=1
USER gan
WORKDIR /runs
VOLUME ["/runs", "/cache"]
ENTRYPOINT ["gan-mhe"]
CMD ["--help"]
