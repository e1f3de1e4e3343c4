"""Backward rules: LRP's family as one gradient each, on whatever a forward pass computed.

A rule changes what the backward pass does at some parts of a model: normalisations, element-wise nonlinearities,
products of two activations, softmax. In the form gradient × input that is all of AttnLRP (Achtibat et al. 2024), CP-LRP
(Ali et al. 2022) and GIM (Edin et al. 2025).

The parts are found in the graph that autograd has recorded of a forward pass, not in modules, and the rule is a set of
hooks on this graph. That has these consequences:

- The forward pass is the model's own, so that its outputs are equal to the bit, and no class, module or function is
  patched. The graph belongs to one pass, so that threads cannot disturb each other and nothing has to be restored.
- Python code, modules, attention interfaces and fused kernels all become the same few kinds of node. The names of modules
  do not matter.
- Nothing is overlooked: every node that relevance passes through is linear, or a part of the rule, or the model is
  refused by the name of the operation.

`rules` defines the rules, `graph` describes what nodes compute, `parts` applies a rule at each node, `hooks` changes a
gradient, and `score` puts a rule on a score function.
"""

from saliency_bench.attribution.backward.rules import KEY, NAMES, PLAIN, RULES, Rule

__all__ = ["KEY", "NAMES", "PLAIN", "RULES", "Rule"]
