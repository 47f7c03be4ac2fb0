"""Values of the network's options. No torch here: the command line is checked before torch is imported."""

RESIDUAL = "residual"
# Output channels of the fusion of two D-channel inputs, in multiples of D; ``None``: D is the number of features.
FUSION_WIDTH: dict[str, int | None] = {
    "sigmoid-do1": 2,
    "sigmoid-do2": 2,
    "sigmoid-do3": 2,
    "sigmoid": 2,
    "linear": 2,
    "simple-sigmoid": 2,
    "concat": 2,
    "sigmoid-down1": 1,
    RESIDUAL: None,
}

STRUCTURES = ("original", "mem_only", "aux_mem_loss", "original_kv_fusion")
MEMORY_STRATEGIES = ("all", "skip_01", "skip_02", "skip_03", "skip_04", "skip_05", "random")
ATTENTION_BACKENDS = ("auto", "reference", "portable", "cpu", "cuda", "flex")

TORCH = "torch"
ENGINES = (TORCH, "onnxruntime", "openvino")  # what computes a stream's frame

# How probabilities are averaged over time, and the default weight of the past: what steadies real driving snippets
# without costing accuracy there. Along the flow it is the weight where the network is unsure.
DEFAULT_SMOOTHING_WEIGHT = {"average": 0.3, "flow": 0.95}
SMOOTHINGS = tuple(DEFAULT_SMOOTHING_WEIGHT)
