"""The files that servers and containers are configured with."""

import re

__all__ = ["fill"]

# Both were built for TensorFlow 2.21 or older, whose SavedModels of these
# operations they run; there is no later one, and of 2.20 none for GPUs.
# https://hub.docker.com/r/tensorflow/serving/tags
_TAG, _GPU_TAG = "2.20.0", "2.19.1-gpu"

_MODELS = """\
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    # A new version is loaded as soon as its folder appears; the old one
    # answers until then.
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

# No allowed_batch_sizes: batches would be padded up to them, which on CPUs is
# work for nothing. An image does not depend on the batch around it.
_BATCHING = """\
# Requests are merged up to this many rows; one of more is refused.
max_batch_size {{ value: 32 }}
# How long a request waits for others.
batch_timeout_micros {{ value: 5000 }}
# Batches of a signature that run side by side.
num_batch_threads {{ value: 2 }}
# Beyond these requests are turned away, and clients try again.
max_enqueued_batches {{ value: 64 }}
"""

# The images have bash, which starts the server, but no curl:
# https://github.com/tensorflow/serving/blob/master/tensorflow_serving/tools/docker/Dockerfile
# A model has metadata once a version of it has been loaded.
_COMPOSE = """\
# docker compose up: gRPC on port 8500, REST on port 8501, for this machine
# alone. For others put a proxy with TLS in front, rather than other addresses.
# docker compose up {name}-gpu: the same on a GPU.
x-serving: &serving
  ports:
    - "127.0.0.1:8500:8500"
    - "127.0.0.1:8501:8501"
  volumes:
    - ./:/models/{name}:ro
  command:
    - --model_config_file=/models/{name}/models.config
    - --enable_batching=true
    - --batching_parameters_file=/models/{name}/batching_parameters.txt
  healthcheck:
    test:
      - CMD
      - bash
      - -c
      - >-
        exec 3<>/dev/tcp/127.0.0.1/8501 &&
        printf 'GET /v1/models/{name}/metadata HTTP/1.0\\r\\n\\r\\n' >&3 &&
        grep -q '^HTTP/1.[01] 200' <&3
    interval: 10s
    timeout: 5s
    retries: 3
    start_period: 5m
  restart: unless-stopped

services:
  {name}:
    <<: *serving
    image: tensorflow/serving:${{TF_SERVING_TAG:-{tag}}}
  {name}-gpu:
    <<: *serving
    image: tensorflow/serving:${{TF_SERVING_GPU_TAG:-{gpu_tag}}}
    profiles: [gpu]
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""

_KUBERNETES = """\
# kubectl apply -f kubernetes.yaml, once this folder is on the volume that
# {resource}-models claims. Within the cluster: gRPC on {resource}:8500, REST on
# {resource}:8501. For a GPU: the image tensorflow/serving:{gpu_tag} and the
# limit nvidia.com/gpu: 1.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {resource}
  labels:
    app.kubernetes.io/name: {resource}
spec:
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: {resource}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {resource}
    spec:
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: serving
          image: tensorflow/serving:{tag}
          command: [tensorflow_model_server]
          args:
            - --port=8500
            - --rest_api_port=8501
            - --model_config_file=/models/{name}/models.config
            - --enable_batching=true
            - --batching_parameters_file=/models/{name}/batching_parameters.txt
          ports:
            - name: grpc
              containerPort: 8500
            - name: rest
              containerPort: 8501
          # Loading may take minutes; after that a version always answers.
          startupProbe:
            httpGet:
              path: /v1/models/{name}/metadata
              port: rest
            periodSeconds: 5
            failureThreshold: 120
          readinessProbe:
            httpGet:
              path: /v1/models/{name}/metadata
              port: rest
          livenessProbe:
            tcpSocket:
              port: rest
          resources:
            requests:
              cpu: "1"
              memory: 2Gi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: models
              mountPath: /models/{name}
              readOnly: true
      volumes:
        - name: models
          persistentVolumeClaim:
            claimName: {resource}-models
---
apiVersion: v1
kind: Service
metadata:
  name: {resource}
spec:
  selector:
    app.kubernetes.io/name: {resource}
  ports:
    - name: grpc
      port: 8500
      targetPort: grpc
    - name: rest
      port: 8501
      targetPort: rest
"""


def fill(model: str) -> dict[str, str]:
    """The files around the versions of a model.

    Args:
      model: its name, see `serving_files.check_model_folder`.

    Returns:
      Contents by file name.
    """
    values = {
        "name": model,
        "resource": _resource(model),
        "tag": _TAG,
        "gpu_tag": _GPU_TAG,
    }
    templates = {
        "models.config": _MODELS,
        "batching_parameters.txt": _BATCHING,
        "docker-compose.yml": _COMPOSE,
        "kubernetes.yaml": _KUBERNETES,
    }
    return {name: text.format(**values) for name, text in templates.items()}


def _resource(model: str) -> str:
    """A name that Kubernetes takes: lower case, of 63 characters at most.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
    """
    name = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")[:50]
    # That of a service begins with a letter, and none ends with a dash.
    return (name if name[:1].isalpha() else f"nvae-{name}").strip("-")
