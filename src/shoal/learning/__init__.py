"""Questions to a person about a clustering, and what is learned from the answers; knows features, not images.

The names load what they need when first used: ``__init__.pyi`` says which module defines each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
