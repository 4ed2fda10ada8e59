"""Results for other programs: the network as ONNX, the clusters as sidecars of the images or as a data set."""
