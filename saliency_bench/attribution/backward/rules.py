"""The rules by name, and their effect at each part of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from saliency_bench.core.labels import BACKWARD, IMPLIED

#: The key of method entries, and its default: the gradient as autograd has it.
KEY = BACKWARD
PLAIN = IMPLIED[KEY]

#: The names of parts of a model in messages.
NORM, NONLINEARITY, PRODUCT, SOFTMAX = "normalisation", "nonlinearity", "product", "softmax"
PARTS = (NORM, NONLINEARITY, PRODUCT, SOFTMAX)


@dataclass(frozen=True)
class Rule:
    """A backward rule. A field that is None does not change the gradient there.

    Attributes:
        name: in configurations.
        label: in text.
        color: of its settings in figures, "#RRGGBB".
        norm: "constant": the standard deviation (or root mean square) is a constant.
        nonlinearity: "ratio": the gradient of an element-wise f is f(x) / x, and f'(0) at 0.
        product: of two activations, element-wise or as matrices. "half": the gradient of each factor is halved;
            "gate": the factor that a nonlinearity or a softmax made is a constant.
        softmax: "constant": it is a constant; "tempered": its Jacobian is that of softmax(x / 2), as in the code of
            GIM's authors (of the paper, and the package gim-explain) without the factor 1/2 that the derivative of
            x / 2 would add.
    """

    name: str
    label: str
    color: str
    norm: Literal["constant"] | None = "constant"
    nonlinearity: Literal["ratio"] | None = "ratio"
    product: Literal["half", "gate"] | None = "half"
    softmax: Literal["constant", "tempered"] | None = None

    @property
    def acts_on(self) -> tuple[str, ...]:
        """The parts at which the rule changes the gradient."""
        fields = (self.norm, self.nonlinearity, self.product, self.softmax)
        return tuple(part for part, value in zip(PARTS, fields, strict=True) if value)


#: AttnLRP: Achtibat et al. 2024, eq. 7 (Propositions 3.2 and 3.3: products), eq. 9 (nonlinearities; norms by Proposition
#: 3.4); the rule of softmax (Proposition 3.1) is its own gradient in the form gradient × input.
#: CP-LRP: Ali et al. 2022 (attention weights and deviations are constants); nonlinearities as in AttnLRP, gates constant.
#: GIM: Edin et al. 2025 (arXiv 2505.17630, sections 4.1 and 4.2), with its authors' temperature of 2.
#: The numbers of AttnLRP's equations come from its authors' code, and GIM's sections from citations. No equation numbers of
#: CP-LRP and GIM could be checked.
RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("attnlrp", "AttnLRP", "#B2182B"),
        Rule("cp_lrp", "CP-LRP", "#7F3B08", product="gate", softmax="constant"),
        Rule("gim", "GIM", "#4C6B00", nonlinearity=None, softmax="tempered"),
    )
}
NAMES = (PLAIN, *RULES)
