"""What lerobot asks for at import or by name, and this environment does not have."""

import importlib.machinery
import os
import sys
import types

# The hub is not asked: everything by name is a folder made here.
os.environ["HF_HUB_OFFLINE"] = "1"

import transformers.utils.import_utils  # noqa: F401  (looks which packages there are, before the stand-ins)


def _stand_in(name: str, **contents: object) -> None:
    """An empty module. lerobot imports torchvision for images, which nothing here has; no CPU build fits our torch."""
    module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


_stand_in("torchvision")
_stand_in("torchvision.transforms")
_stand_in("torchvision.transforms.functional")
_stand_in("torchvision.transforms.v2", Transform=object, functional=None)
