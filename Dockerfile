# The whole environment, without a CUDA base image: the installer brings what a GPU needs. See docs/clusters.md.
#   docker build --tag ralamala_mm --build-arg FORCE_CUDA=1 --build-arg TORCH_CUDA_ARCH_LIST="8.0;9.0" .
#   docker build --tag ralamala_mm .        # for CPUs only
FROM debian:trixie-slim

# The compiler and Python's headers stay: Triton compiles with them on the machine that it runs on.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ARG STACK=upstream
ARG TORCH
ARG FORCE_CUDA
ARG TORCH_CUDA_ARCH_LIST
ENV PIP_NO_CACHE_DIR=1

# torch, mmcv's operators and the stack, which take minutes. Only a change of what is copied here makes this layer again.
WORKDIR /ralamala_mm
COPY pyproject.toml ./
COPY requirements requirements/
RUN python3 requirements/install.py --dependencies-only --stack "$STACK" --venv /opt/ralamala ${TORCH:+--torch "$TORCH"} \
    && rm -rf /root/.cache

COPY . .
RUN make install STACK="$STACK" VENV=/opt/ralamala ${TORCH:+TORCH="$TORCH"} \
    && rm -rf /root/.cache \
    && groupadd --gid 1000 ralamala \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /home/ralamala ralamala \
    && install --directory --mode 1777 /home/ralamala data work_dirs

# By number, so that Kubernetes sees that it is not root. Any other user may be chosen when it is run (--user): the home, for
# caches of weights and compiled kernels, is everybody's, and USER names a user without an entry in /etc/passwd.
ENV PATH=/opt/ralamala/bin:$PATH HOME=/home/ralamala USER=ralamala
USER 1000:1000
CMD ["python", "tools/train.py", "--help"]
