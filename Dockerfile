# A service of an exported model: ONNX Runtime, no PyTorch, no root, nothing written outside /index, /photos and /tmp.
# Build and run: docs/serving.md.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY configs configs
COPY objemb objemb
RUN python -m venv /opt/objemb && /opt/objemb/bin/pip install --no-cache-dir ".[onnxruntime,serve]"

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin objemb
COPY --from=build /opt/objemb /opt/objemb
ENV PATH=/opt/objemb/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER objemb
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
ENTRYPOINT ["objemb", "serve", "/index", "--model", "/model", "--photos", "/photos", "--host", "0.0.0.0"]
