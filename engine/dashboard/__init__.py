"""``--visualize``: a running training or evaluation in visdom."""
