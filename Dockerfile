# An exported model served over HTTP, without torch, as a user of no rights:
#   docker build --tag botvision-serve .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume "$PWD/models:/models:ro" botvision-serve /models/detector.onnx
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim
RUN pip install --no-cache-dir \
    "jsonargparse[signatures]" numpy onnxruntime pillow prometheus-client pycocotools pyyaml shtab starlette uvicorn
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir --no-deps /wheel/*.whl && rm -r /wheel \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin botvision
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["botvision", "serve", "--host", "0.0.0.0"]
