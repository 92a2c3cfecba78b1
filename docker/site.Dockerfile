# A hospital's image: consilium-site, as an ordinary user. From the repository's root:
#
#   docker build -f docker/site.Dockerfile -t consilium-site .
#
# TORCH_SOURCE says which torch to install. If it is empty, pip takes the one of its index: on Linux,
# the CUDA build. For the smaller CPU build, name an index or a folder that has it (README.md):
#
#   docker build --build-arg TORCH_SOURCE="--extra-index-url ADDRESS" -f docker/site.Dockerfile .
#
# For a graphics card (GPU), leave TORCH_SOURCE empty. BASE may name an image of CUDA's with Python 3.11;
# the default works too, since torch brings CUDA's libraries and the NVIDIA Container Toolkit the driver:
#
#   docker build --build-arg BASE=CUDA_IMAGE -f docker/site.Dockerfile -t consilium-site .
#   docker run --rm --gpus device=0 --entrypoint nvidia-smi consilium-site     # does it see the card?
#
# Mount the images read-only. The volume holds everything that must be kept: back it up.
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TORCH_SOURCE=""

WORKDIR /opt/consilium
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY common common
COPY server server
COPY simulations simulations
RUN pip install --no-cache-dir ${TORCH_SOURCE} -c constraints.txt .

RUN useradd --uid 10001 site \
 && install --directory --owner site --mode 0700 /var/lib/consilium \
 && install --directory --owner site /cards
USER site
WORKDIR /var/lib/consilium
VOLUME /var/lib/consilium

# What the NVIDIA Container Toolkit gives a container that has a card: CUDA, and the driver's version.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV CONSILIUM_SITE=/var/lib/consilium/site.toml HOME=/tmp \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
HEALTHCHECK --interval=60s --timeout=15s --start-period=60s \
    CMD ["consilium-site", "status"]
ENTRYPOINT ["consilium-site"]
CMD ["serve"]
