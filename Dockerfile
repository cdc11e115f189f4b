# Everything on the processor: docker build -t cnnimretrieval .
#   docker run --rm -v "$PWD/photos:/photos:ro" -v "$PWD/work:/work" cnnimretrieval run /photos --out /work
# On a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t cnnimretrieval:gpu .
#   docker run --rm --gpus all ... cnnimretrieval:gpu ...
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=timm,heif,onnx,hloc,web,faiss,spatial

RUN useradd --create-home user && mkdir /work && chown user /work
WORKDIR /src
# First what is large and seldom changes.
RUN pip install --no-cache-dir --index-url ${TORCH_INDEX} torch torchvision
COPY setup.py setup.cfg README.md LICENSE ./
COPY groundwork groundwork
COPY sfm sfm
COPY pairs pairs
COPY cnnimretrieval cnnimretrieval
COPY experiments experiments
RUN pip install --no-cache-dir ".[${EXTRAS}]"

USER user
WORKDIR /work
ENTRYPOINT ["cnnimretrieval"]
CMD ["--help"]
