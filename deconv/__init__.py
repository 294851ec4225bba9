"""deconv: what does this unit of my ConvNet see?

Mine the image patches that fire each unit most, and send each activation back to pixels by a deconvolutional network
(Zeiler and Fergus 2013). The names below are loaded when first used, so that `deconv --help` need not wait for torch;
`__init__.pyi` says where each lives.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
