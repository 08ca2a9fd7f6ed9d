"""Makes a model: clips in, an ONNX file with its card out. Needs the `train` extra."""
