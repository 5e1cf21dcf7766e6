"""A synthetic COCO dataset, made offline: real handwritten digits on real photographs."""

from botvision.scenes.make import make_scenes
from botvision.scenes.material import Material, load_material

__all__ = ["Material", "load_material", "make_scenes"]
