"""Imported once by the fork server."""

import torch

torch.set_num_threads(1)

import swift.api  # noqa: E402
import swift.infer.backends.transformers  # noqa: E402
import swift.optim.adamw  # noqa: E402
import swift.optim.schedule  # noqa: E402
import swift.recipes.deploy  # noqa: E402
import swift.recipes.infer  # noqa: E402
import swift.recipes.sft  # noqa: E402
import swift.serve.server  # noqa: E402
import swift.tune.full  # noqa: E402
import swift.tune.lora  # noqa: E402, F401
