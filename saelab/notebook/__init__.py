"""What a notebook shows: progress, pictures, tables, latents; and runs made in it.

from saelab import notebook as nb
"""

from saelab.evals.report.features import spread
from saelab.notebook.circuits import areas, drawn, heads, kept, methods, places, prompt_text, prompts, rocs, together
from saelab.notebook.features import feeding, firing_on, latents, losses, parts, reading, steering
from saelab.notebook.lines import progress, stages
from saelab.notebook.picture import Picture, beside, chart, framed
from saelab.notebook.runs import finished, make, numbers
from saelab.notebook.written import Written, table

__all__ = [
    "Picture",
    "Written",
    "areas",
    "beside",
    "chart",
    "drawn",
    "feeding",
    "finished",
    "firing_on",
    "framed",
    "heads",
    "kept",
    "latents",
    "losses",
    "make",
    "methods",
    "numbers",
    "parts",
    "places",
    "progress",
    "prompt_text",
    "prompts",
    "reading",
    "rocs",
    "spread",
    "stages",
    "steering",
    "table",
    "together",
]
