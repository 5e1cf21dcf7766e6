"""What the registered sentences say of the results: the four comparisons, what is refuted, what was predicted."""

from statistics import fmean
from typing import NamedTuple

from botvision.engine.intervals import Interval, difference, interval, verdict
from studies.holm import Corrected, holm
from studies.relations.evidence import Evidence
from studies.relations.protocol import ATTENTION, COIN, SEARCH_WORLD, SEEDS, SHORT, draws
from studies.relations.search import found, search

DECISIVE = ("pair_far", "match")  # tasks of the four comparisons
TURN = 0.8  # share of answers that must turn with the keys
HIGH = 0.9  # accuracy that the first prediction names
CLOSE = 0.05  # within which the second prediction sees all
HELD, FALLEN, OPEN = "held", "fallen", "not decided"


class Compared(NamedTuple):
    """A registered comparison: a variant with attention minus the strongest control of its task."""

    world: str
    variant: str
    control: str
    apart: dict[int, float]
    found: Corrected

    @property
    def is_above(self) -> bool:
        """Whether the interval lies above zero."""
        return self.found.low > 0


class Row(NamedTuple):
    """A registered sentence, what came of it, and the verdict."""

    sentence: str
    came: str
    verdict: str


def comparisons(evidence: Evidence) -> list[Compared]:
    """The four registered comparisons, corrected together; none before all have their seeds."""
    asked = [(world, one, evidence.strongest(world)) for world in DECISIVE for one in ATTENTION]
    whole = [(w, one, control) for w, one, control in asked if control and evidence.mean(w, one) is not None]
    if len(whole) < len(asked):
        return []
    apart = [evidence.apart(*each) for each in whole]
    corrected = holm([list(values.values()) for values in apart])
    return [Compared(*each, values, one) for each, values, one in zip(whole, apart, corrected, strict=True)]


def percent(share: float | None) -> str:
    """An accuracy as sentences print it."""
    return "not run" if share is None else f"{100 * share:.1f} %"


def means(evidence: Evidence, world: str, names: tuple[str, ...]) -> str:
    """Variants with their mean accuracies."""
    return ", ".join(f"{evidence.title(name)} {percent(evidence.mean(world, name))}" for name in names)


def points(one: Corrected) -> str:
    """A corrected difference."""
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def spread(found: Interval | None) -> str:
    """An uncorrected difference."""
    return "" if found is None else f"{found.text(sign=True)} points"


def refutations(evidence: Evidence) -> list[Row]:
    """What the protocol says would refute each claim, and whether it did."""
    compared = comparisons(evidence)
    return [
        *(stronger_than_controls(evidence, compared, world) for world in DECISIVE),
        distance_or_trainability(evidence, compared),
        positions(evidence),
        *answers_rest_on_keys(evidence),
    ]


def stronger_than_controls(evidence: Evidence, compared: list[Compared], world: str) -> Row:
    """Comparisons 1 and 2, or 3 and 4."""
    sentence = f"Attention classifies *{world}* better than a ResNet can: refuted if no interval lies above zero."
    own = [one for one in compared if one.world == world]
    if not own:
        return Row(sentence, "", OPEN)
    came = "; ".join(f"{evidence.title(one.variant)}: {points(one.found)} points, {one.found.verdict()}" for one in own)
    if not any(evidence.learnt(world, name) for name in SHORT["variants"]):
        came += "; learnt by none"
    return Row(sentence, came, "stands" if any(one.is_above for one in own) else "refuted")


def distance_or_trainability(evidence: Evidence, compared: list[Compared]) -> Row:
    """Whether directional's difference to the strongest control is larger far than near."""
    sentence = (
        "It is the distance: refuted if directional minus the strongest control is not larger in *pair_far* than in "
        "*pair_near*. Then it is trainability."
    )
    controls = {world: evidence.strongest(world) for world in ("pair_far", "pair_near")}
    apart = [evidence.apart(world, "directional", control) for world, control in controls.items() if control]
    if not compared or len(apart) < 2 or any(set(one) != set(SEEDS) for one in apart):
        return Row(sentence, "", OPEN)
    far, near = apart
    more = difference(far, near)
    names = " and ".join(f"{evidence.title(str(control))} in *{world}*" for world, control in controls.items())
    came = (
        f"{100 * fmean(far.values()):+.1f} points far and {100 * fmean(near.values()):+.1f} near, against {names}; far "
        f"minus near {spread(more)}: {verdict(more)} (this interval alone, uncorrected)"
    )
    is_above = any(one.is_above for one in compared if (one.world, one.variant) == ("pair_far", "directional"))
    if not is_above:
        came += "; there is no advantage to explain"
    return Row(sentence, came, "stands" if verdict(more) == "above" else "refuted")


def positions(evidence: Evidence) -> Row:
    """The better of relative and directional beside no positions and absolute ones."""
    sentence = (
        "Positions matter (long form): refuted if no positions, or absolute ones, are not below the better of relative "
        "and directional in *pair_far*."
    )
    ours = {name: mean for name in ATTENTION if (mean := evidence.mean("pair_far", name)) is not None}
    others = [name for name in ("content", "absolute") if evidence.mean("pair_far", name) is not None]
    if len(ours) < len(ATTENTION) or len(others) < 2:
        return Row(sentence, "", OPEN)
    better = max(ours, key=lambda name: ours[name])
    apart = {name: interval(list(evidence.apart("pair_far", better, name).values())) for name in others}
    came = "; ".join(f"{evidence.title(better)} minus {evidence.title(name)} {spread(a)}" for name, a in apart.items())
    if better == "directional" and not evidence.learnt("pair_far", "relative"):
        came += (
            f". But from the paper's start {evidence.title('relative')} is at chance too, {percent(ours['relative'])}, "
            "and neither of the others has a directional start: the start is seen here, not what positions do"
        )
    return Row(sentence, came, "stands" if all(verdict(a) == "above" for a in apart.values()) else "refuted")


def answers_rest_on_keys(evidence: Evidence) -> list[Row]:
    """For every variant above chance in a *pair*."""
    rows = []
    for world in ("pair_far", "pair_near"):
        for name in evidence.counted.get(world, {}):
            if not evidence.learnt(world, name):
                continue
            probes = [one["probe"] for one in evidence.of(world, name).values()]
            turned, blind = (fmean(one[what] for one in probes) for what in ("turned", "without_keys"))
            sentence = (
                f"The answers of {evidence.title(name)} in *{world}* rest on the keys: refuted if fewer than "
                f"{100 * TURN:.0f} % turn with them, or more than {100 * COIN:.0f} % are right without them."
            )
            came = f"{percent(turned)} turn; {percent(blind)} right without keys"
            rows.append(Row(sentence, came, "stands" if turned >= TURN and blind <= COIN else "refuted"))
    return rows


def predictions(evidence: Evidence) -> list[Row]:
    """The five predictions of the protocol, in its order."""
    return [parity_far(evidence), coin_without_reach(evidence), paper_at_chance(evidence), match(evidence),
            heads_on_keys(evidence)]  # fmt: skip


def judged(holds: bool | None) -> str:
    """A prediction's verdict."""
    return OPEN if holds is None else HELD if holds else FALLEN


def parity_far(evidence: Evidence) -> Row:
    """The first."""
    names = ("deep", "dilated", "directional")
    told = [one.found for one in comparisons(evidence) if (one.world, one.variant) == ("pair_far", "directional")]
    high = [(evidence.mean("pair_far", name) or 0) > HIGH for name in names]
    holds = all(high) and told[0].low <= 0 <= told[0].high if told else None
    sentence = (
        f"In *pair_far* no difference to the strongest control can be told; deeper, dilated and directional are above "
        f"{100 * HIGH:.0f} %. The claim falls."
    )
    return Row(sentence, means(evidence, "pair_far", names) + (f"; {told[0].verdict()}" if told else ""), judged(holds))


def coin_without_reach(evidence: Evidence) -> Row:
    """The second."""
    low, rest = ("resnet", "se"), ("deep", "dilated", *ATTENTION)
    far = [evidence.mean("pair_far", name) for name in low]
    near = [evidence.mean("pair_near", name) for name in rest]
    known = [mean for mean in near if mean is not None]
    holds = None
    if None not in far and len(known) == len(rest):
        holds = not any(evidence.learnt("pair_far", name) for name in low) and max(known) - min(known) <= CLOSE
    sentence = (
        "The ResNet baseline and SE stay at chance in *pair_far*; in *pair_near* all others are within "
        f"{100 * CLOSE:.0f} points of each other."
    )
    came = f"far: {means(evidence, 'pair_far', low)}; near: {means(evidence, 'pair_near', rest)}"
    return Row(sentence, came, judged(holds))


def paper_at_chance(evidence: Evidence) -> Row:
    """The third: of the counted runs, and of every trial of the search."""
    searched = found(search("relative", SEARCH_WORLD), evidence.results)
    wide = {draw.number for draw in draws("relative") if draw.options.get("qkv_std")}
    mean = evidence.mean("pair_far", "relative")
    holds = None
    if mean is not None and len(searched) == len(draws("relative")):
        holds = mean <= COIN and all(one["right"] <= COIN for one in searched)
    came = f"counted runs {percent(mean)}"
    for title, own in (
        ("the paper's scales", [one for one in searched if one["draw"] not in wide]),
        ("wider ones", [one for one in searched if one["draw"] in wide]),
    ):
        if own:
            came += f"; search, {title}: {', '.join(percent(one['right']) for one in own)}"
    sentence = "Relative stays at chance in *pair_far*, with the paper's scales and with wider ones."
    return Row(sentence, came, judged(holds))


def match(evidence: Evidence) -> Row:
    """The fourth."""
    names = SHORT["variants"]
    whole = all(evidence.mean("match", name) is not None for name in names)
    holds = not any(evidence.learnt("match", name) for name in names) if whole else None
    return Row("*match* is learnt by none.", means(evidence, "match", names), judged(holds))


def heads_on_keys(evidence: Evidence) -> Row:
    """The fifth."""
    sentence = (
        "Directional puts more than half of one head's weight on the keys; its answers turn with them (here: in "
        f"*pair_far*, at least {100 * TURN:.0f} %)."
    )
    probes = [one["probe"] for one in evidence.of("pair_far", "directional").values()]
    if len(probes) < len(SEEDS):
        return Row(sentence, "", OPEN)
    weight, turned = fmean(max(one["attention"]) for one in probes), fmean(one["turned"] for one in probes)
    came = f"{percent(weight)} of the weight of the head that has most; {percent(turned)} turn"
    return Row(sentence, came, judged(weight > 0.5 and turned >= TURN))
