# psp serve on a CPU, with the bundled inversion engine: pictures in, pictures out at port 8000. No PyTorch in the image.
#   docker build -t psp .
#   docker run --rm -p 8000:8000 psp
# The first stage needs PyTorch to export. To spare it CUDA, give the address of CPU builds that PyTorch's install page
# names: --build-arg PIP_EXTRA_INDEX_URL=ADDRESS

FROM python:3.12-slim AS source
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE MANIFEST.in ./
COPY psp_runtime psp_runtime
COPY psp_train psp_train
COPY psp_export psp_export

FROM source AS export
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -c constraints.txt '.[cpu,export]' \
    && psp export --task inversion --fp16 --output /engines/psp

FROM source
RUN pip install --no-cache-dir -c constraints.txt '.[cpu,serve]' && useradd --uid 10001 --create-home psp
COPY --from=export /engines /engines
USER 10001
WORKDIR /home/psp
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/ready')"]
ENTRYPOINT ["psp"]
CMD ["serve", "--engine", "/engines/psp.onnx", "--host", "0.0.0.0", "--port", "8000"]
