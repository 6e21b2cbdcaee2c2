# WanAct with the nano model inside: docker build -t wanact . && docker run -p 7860:7860 wanact
# On a machine with an NVIDIA GPU: docker run --gpus all -p 7860:7860 -v DIR:/model wanact --model_dir /model
# PIP_ARGS goes to pip: `--build-arg PIP_ARGS=...` to take a PyTorch without CUDA, which is a tenth of the size.
FROM debian:trixie-slim

ARG PIP_ARGS=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH \
    GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 GRADIO_ANALYTICS_ENABLED=False \
    HF_HOME=/data/huggingface GRADIO_TEMP_DIR=/tmp/gradio

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv \
    && useradd --create-home --uid 1000 pilot \
    && install -d -o pilot /data

WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN python3 -m pip install -r requirements.txt -c constraints.txt $PIP_ARGS

COPY app.py ./
COPY wanact ./wanact
COPY train ./train
COPY assets ./assets

USER pilot
VOLUME /data
EXPOSE 7860
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/config', timeout=4)"]
ENTRYPOINT ["python3", "app.py"]
