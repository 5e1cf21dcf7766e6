"""What is compared, where, and how it is tuned: fixed before the first run that counts."""

import random
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from studies.starts.contenders import AIMED, CONTENDERS, Contender, resnet
from studies.starts.reading import STEPS, Recipe, Setting

VARIANTS: dict[str, Contender] = {
    "resnet": CONTENDERS["resnet"],
    "se": CONTENDERS["se"],
    "deep": CONTENDERS["deep"],
    "dilated": resnet("ResNet, last 3×3 dilated by 4", dilation=4),
    "relative": Contender("BoT, relative positions"),
    "directional": Contender("BoT, relative positions, directional start", options=AIMED),
    "content": Contender("BoT, no positions", options={"position": "none"}),
    "absolute": Contender("BoT, absolute positions", options={"position": "absolute"}),
}
POINTS = {  # of each variant, in a sentence
    "resnet": "What the paper replaces: 3×3 convolutions in the last stage; 99 % of a reading lies within 59 px.",
    "se": "One mean over the whole image weighs the channels: global, without places.",
    "deep": "Two more blocks in the last stage: 112 px by depth, for twice the parameters.",
    "dilated": "The last 3×3 convolution's taps stand 64 px apart: long range at a fixed offset, for no parameter.",
    "relative": "The paper's layer.",
    "directional": "The paper's layer from another start: each head begins by looking one way.",
    "content": "Global attention that cannot tell where a place lies.",
    "absolute": "Global attention with the places themselves instead of their differences.",
}
LARGE = {  # the same of the paper's size, for a GPU
    "resnet": Contender("ResNet-50", "resnet50"),
    "se": Contender("ResNet-50 + SE", "resnet50", {"block_args": {"attn_layer": "se"}}),
    "deep": Contender("ResNet-50, 2 more blocks in the last stage", "resnet50", {"layers": (3, 4, 6, 5)}),
    "dilated": Contender("ResNet-50, last 3×3s dilated by 4", "resnet50", dilation=4),
    "relative": Contender("BoT50", "botnet50"),
    "directional": Contender("BoT50, directional start", "botnet50", AIMED),
    "content": Contender("BoT50, no positions", "botnet50", {"position": "none"}),
    "absolute": Contender("BoT50, absolute positions", "botnet50", {"position": "absolute"}),
}


class Form(NamedTuple):
    """The size that the protocol is run at."""

    variants: dict[str, Contender]
    setting: Setting
    steps: int = STEPS


FORMS = {
    "cpu": Form(VARIANTS, Setting()),
    "gpu": Form(LARGE, Setting(384, base={}, batch=32, device="cuda")),
    "toy": Form(
        LARGE, Setting(160, (16, 8), {"channels": (8, 16, 32, 64)}, batch=4), steps=2
    ),  # proves that the GPU's form runs
}
CONTROLS = ("se", "deep", "dilated")  # the strongest of them is what a claim is held against
ATTENTION = ("relative", "directional")
WORLDS = ("pair_far", "pair_near", "match", "key", "plain")
SHORT = {"variants": ("resnet", *CONTROLS, *ATTENTION), "worlds": WORLDS[:3]}  # what is run first
SEEDS = (10, 11, 12, 13, 14)  # 0 to 4 and 100 are those of studies/starts, which has looked at these worlds
SEARCH_SEED = 101
SEARCH_WORLD, SECOND_WORLD = "pair_far", "pair_near"
COIN = 0.55  # a share up to which nothing was learnt: the second world chooses
DRAWS = 5
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
DECAYS = (0.01, 0.05, 0.2)
GAMMAS = (False, True)  # whether a block's last gamma begins at zero, as the paper has it
OWN: dict[str, tuple[dict[str, Any], ...]] = {  # what a draw chooses besides, where attention has it
    "relative": ({}, {"qkv_std": 0.05, "position_std": 0.7}, {"qkv_std": 128**-0.5 / 2, "position_std": 0.1}),
    "directional": ({"start_distance": 1 / 6}, {"start_distance": 1 / 4}, {"start_distance": 3 / 8}),
    "content": ({}, {"qkv_std": 0.05}, {"qkv_std": 128**-0.5 / 2}),
    "absolute": ({}, {"qkv_std": 0.05, "position_std": 0.7}, {"qkv_std": 128**-0.5 / 2, "position_std": 0.1}),
}


class Draw(NamedTuple):
    """A recipe, and what it changes in the backbone."""

    number: int
    recipe: Recipe
    options: dict[str, Any]

    def contender(self, variant: str, form: str = "cpu") -> Contender:
        """The variant with this draw's options."""
        whole = FORMS[form].variants[variant]
        return replace(whole, options=whole.options | self.options)

    def __str__(self) -> str:
        options = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.options.items()
        )
        return f"lr {self.recipe.rate:g}, decay {self.recipe.decay:g}, {options}"


def draws(variant: str) -> list[Draw]:
    """A variant's draws: rates, decays and last gammas are the same for all, each combination at most once.

    Its own choices come on top, dealt so that each is drawn.
    """
    shared, own = random.Random(0), random.Random(1)
    combinations = shared.sample([*product(RATES, DECAYS, GAMMAS)], DRAWS)
    choices = OWN.get(variant, ({},))
    dealt = own.sample(choices, len(choices)) + own.choices(choices, k=DRAWS - len(choices))
    return [
        Draw(number, Recipe(rate, decay), {"zero_init_last": gamma} | dealt[number])
        for number, (rate, decay, gamma) in enumerate(combinations)
    ]
