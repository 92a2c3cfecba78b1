# The coordinator's image: consilium-coordinator, as an ordinary user. From the repository's root:
#
#   docker build -f docker/coordinator.Dockerfile -t consilium-coordinator .
#
# TORCH_SOURCE is what README.md says of it: where pip finds torch's CPU build. The coordinator
# needs no other. Everything that must outlive a container is in the volume.
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

# HOME is where Flower unpacks a bundle; the root file system may be read-only.
ENV CONSILIUM_COORDINATOR=/var/lib/consilium HOME=/tmp \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
HEALTHCHECK --interval=60s --timeout=15s --start-period=60s \
    CMD ["consilium-coordinator", "sites"]
ENTRYPOINT ["consilium-coordinator"]
CMD ["serve"]
