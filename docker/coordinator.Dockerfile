# The coordinator's image: consilium-coordinator, as an ordinary user. In the repository's root, run:
#
#   docker build -f docker/coordinator.Dockerfile -t consilium-coordinator .
#
# TORCH_SOURCE says where pip finds torch's CPU build (README.md, "Installing"); the coordinator needs
# no GPU. Everything that must outlive the container is in the volume.
FROM python:3.11-slim

ARG TORCH_SOURCE=""

WORKDIR /opt/consilium
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY common common
COPY server server
COPY simulations simulations
RUN pip install --no-cache-dir ${TORCH_SOURCE} -c constraints.txt .

RUN useradd --uid 10001 coordinator \
 && install --directory --owner coordinator --mode 0700 /var/lib/consilium \
 && install --directory --owner coordinator /cards
USER coordinator
WORKDIR /var/lib/consilium
VOLUME /var/lib/consilium
EXPOSE 8443

# Flower unpacks a bundle in HOME. The root file system may be read-only, so this is /tmp.
ENV CONSILIUM_COORDINATOR=/var/lib/consilium HOME=/tmp \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
HEALTHCHECK --interval=60s --timeout=15s --start-period=60s \
    CMD ["consilium-coordinator", "sites"]
ENTRYPOINT ["consilium-coordinator"]
CMD ["serve"]
