# Two targets: cpu (the default: listener, API, workers on OpenVINO or ONNX Runtime) and gpu (inference workers on CUDA).
#
#   docker build --target cpu --tag leukoscope:0.1.0 .
#   docker build --target gpu --tag leukoscope:0.1.0-gpu .
#
# Every Python package is pinned (constraints.txt, deploy/constraints-gpu.txt). For builds that repeat to the layer, name the base
# image by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
ARG SETUPTOOLS=84.2.1
WORKDIR /source
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --no-deps "setuptools==${SETUPTOOLS}"
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
COPY worker ./worker
COPY model ./model
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# What pyproject.toml names, read from it, so that a change of our own code leaves the layers of the dependencies as they are.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /source
COPY pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
[open(extra + '.txt', 'w').write('\n'.join(project['dependencies'] + project['optional-dependencies'][extra]) + '\n') for extra in ('cpu', 'gpu')]"

# The virtual environments have no pip of their own. Serving needs no torch: a build that brings it in fails.
FROM ${PYTHON_IMAGE} AS cpu-environment
COPY --from=requirements /source/cpu.txt /source/
COPY constraints.txt /source/
RUN python -m venv --without-pip /opt/leukoscope \
 && python -m pip --python /opt/leukoscope/bin/python install --no-cache-dir --only-binary :all: \
    --constraint /source/constraints.txt --requirement /source/cpu.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/leukoscope/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/leukoscope/bin/python -c "import importlib.util; assert importlib.util.find_spec('torch') is None, 'torch is in the image'" \
 && /opt/leukoscope/bin/python -c "import openvino, onnxruntime" \
 && /opt/leukoscope/bin/leukoscope releases verify

# ONNX Runtime for CUDA 13; the CUDA and cuDNN libraries come as packages too, the driver is the host's: 580 or newer.
FROM ${PYTHON_IMAGE} AS gpu-environment
COPY --from=requirements /source/gpu.txt /source/
COPY constraints.txt deploy/constraints-gpu.txt /source/
RUN python -m venv --without-pip /opt/leukoscope \
 && python -m pip --python /opt/leukoscope/bin/python install --no-cache-dir --only-binary :all: \
    --constraint /source/constraints.txt --constraint /source/constraints-gpu.txt \
    --requirement /source/gpu.txt "onnxruntime-gpu[cuda,cudnn]"
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/leukoscope/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/leukoscope/bin/python -c "import importlib.util; assert importlib.util.find_spec('torch') is None, 'torch is in the image'" \
 && /opt/leukoscope/bin/python -c "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()" \
 && /opt/leukoscope/bin/leukoscope releases verify

FROM ${PYTHON_IMAGE} AS runtime
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 leukoscope \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin leukoscope \
 && install --directory --owner=10001 --group=10001 --mode=0750 /data
COPY deploy/probe.py /usr/local/lib/leukoscope/probe.py
# The hosts stay at loopback, the default: open doors need LEUKOSCOPE_DICOM_HOST with calling_ae, LEUKOSCOPE_HTTP_HOST with tokens.
ENV PATH=/opt/leukoscope/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    LEUKOSCOPE_DATA_DIR=/data
WORKDIR /data
VOLUME /data
EXPOSE 8000 11112 2762
STOPSIGNAL SIGTERM
# For `serve` and `api`. The other parts: docker-compose.yml and deploy/kubernetes/ give their own check, or say why there is none.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["python", "/usr/local/lib/leukoscope/probe.py", "api"]
ENTRYPOINT ["/usr/bin/tini", "--", "leukoscope"]
CMD ["serve"]
LABEL org.opencontainers.image.title="Leukoscope" \
      org.opencontainers.image.description="Segments white-matter hyper-intensities on brain FLAIR MRI. Investigational; not a medical device." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS gpu
COPY --from=gpu-environment /opt/leukoscope /opt/leukoscope
# NVIDIA_REQUIRE_CUDA lets NVIDIA's container runtime refuse a host whose driver is too old for CUDA 13 (below 580).
ENV LD_LIBRARY_PATH=/opt/leukoscope/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/leukoscope/lib/python3.11/site-packages/nvidia/cudnn/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0" \
    LEUKOSCOPE_ENGINE=onnxruntime-cuda
LABEL org.opencontainers.image.title="Leukoscope for CUDA 13" \
      org.leukoscope.nvidia-driver-minimum="580"
USER 10001:10001

FROM runtime AS cpu
COPY --from=cpu-environment /opt/leukoscope /opt/leukoscope
USER 10001:10001
