"""Learn GRPO by building it. Names are loaded when they are first used, so that ``import minigrpo`` costs nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.remove("to_trl")  # minigrpo.to_trl works; ``from minigrpo import *`` does without TRL
