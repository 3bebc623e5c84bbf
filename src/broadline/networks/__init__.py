"""The networks: what they are made of (no torch), as ONNX graphs, and as torch modules for training."""
