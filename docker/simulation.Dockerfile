# The researcher's image: consilium-sim, as an ordinary user. From the repository's root:
#
#   docker build -f docker/simulation.Dockerfile -t consilium-sim .
#   docker run --rm -v "$PWD/runs:/runs" consilium-sim demo --out /runs/demo
#
# TORCH_SOURCE says where pip finds torch's CPU build (see README.md).
FROM python:3.11-slim

ARG TORCH_SOURCE=""

WORKDIR /opt/consilium
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY client client
COPY common common
COPY server server
COPY simulations simulations
RUN pip install --no-cache-dir ${TORCH_SOURCE} -c constraints.txt .

RUN useradd --uid 10001 researcher && install --directory --owner researcher /runs
USER researcher
WORKDIR /runs

ENV FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
ENTRYPOINT ["consilium-sim"]
CMD ["--help"]
