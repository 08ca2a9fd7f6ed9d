"""pamd: listens to the sea for whales and warns ships."""

import os

# Said before anything imports onnxruntime, which from then on would keep a device id and report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
