"""Training by the paper's section 3: SGD with momentum, dropout, and filters held to a root mean square of 1e-1.

- `recipe`: the numbers of a run, and what they make of learning rate and dropout; it needs no torch;
- `data`: labelled images in memory, and random crops of them; `images`: where a run's images come from;
- `loop`: `train` and `evaluate`; `metrics` and `state`: what a run leaves after every epoch.

`train`, `evaluate` and `limit_filter_rms` are loaded when first used, so that a recipe can be checked without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
