"""Which parts of a model do a task: methods that say so, and what they are worth."""

from saelab.circuits.anatomy import Anatomy
from saelab.circuits.experiment import first_edges, run
from saelab.circuits.export import mib_circuit, write_mib_circuit
from saelab.circuits.faithfulness import Circuits, Curve, curve, order_of, random_orders
from saelab.circuits.features import FeatureScores, attribute_features, patch_features
from saelab.circuits.gathering import gather
from saelab.circuits.pairs import Competence, Pairs, competence, draw, pairs_of
from saelab.circuits.plan import STANDARD, Entry, Plan
from saelab.circuits.ranking import Ranking, rank
from saelab.circuits.scores import METHODS, Cost, Edges, Method, Scores
from saelab.circuits.table import Row, table
from saelab.circuits.together import Together, ablate_together
from saelab.circuits.truth import CUT_OFF, OTHER_CUT_OFFS, Truth, by_patching, published

__all__ = [
    "CUT_OFF",
    "METHODS",
    "OTHER_CUT_OFFS",
    "STANDARD",
    "Anatomy",
    "Circuits",
    "Competence",
    "Cost",
    "Curve",
    "Edges",
    "Entry",
    "FeatureScores",
    "Method",
    "Pairs",
    "Plan",
    "Ranking",
    "Row",
    "Scores",
    "Together",
    "Truth",
    "ablate_together",
    "attribute_features",
    "by_patching",
    "competence",
    "curve",
    "draw",
    "first_edges",
    "gather",
    "mib_circuit",
    "order_of",
    "pairs_of",
    "patch_features",
    "published",
    "random_orders",
    "rank",
    "run",
    "table",
    "write_mib_circuit",
]
