"""The run folder's README: the model, its training data, and how to use it."""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined

from cammsr_cli.config import Config
from cammsr_cli.runs.spec import ModelSpec
from cammsr_cli.training.reports import Outcome

_CARD = """\
# A cammsr model ({{ spec.preset }})

Recommends a user's next item. Made by {{ spec.tool }}.

| | |
|---|---|
| data set | `{{ spec.data_path }}` |
| content | `{{ spec.data_content }}` |
| items with an id row | {{ "{:,}".format(spec.num_ids) }} |
| categories | {{ spec.category_names | length }} |
| parameters | {{ "{:,}".format(outcome.parameters) }} |
| epochs | {{ outcome.epochs }}, best {{ outcome.best_epoch }} |
| validation NDCG@10 | {{ "%.4f" | format(outcome.best_ndcg) }} |
{% if branches -%}
| weights of branches | {{ branches }} |
{% endif -%}
| seed | {{ config.training.seed }} |
{% if spec.fingerprints %}
## What its vectors were made by

| modality | size | fingerprint |
|---|---|---|
{% for name, fingerprint in spec.fingerprints.items() -%}
| {{ name }} | {{ spec.feature_dims[name] }} | {{ fingerprint }} |
{% endfor %}
{%- endif %}
## Use

    cammsr evaluate RUN
    cammsr recommend RUN --user USER

NDCG@10 is measured by ranking the whole catalogue, seen items excluded. The model knows only what
its training events show: who was not in the data is not served by it, and what was popular there
is favoured. Settings: `config.yaml`.
"""


def model_card(spec: ModelSpec, config: Config, outcome: Outcome) -> str:
    """Render the model card as Markdown."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701 - Markdown, not HTML
    weights = outcome.branch_weights
    branches = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    page = environment.from_string(_CARD).render(
        spec=spec, config=config, outcome=outcome, branches=branches if len(weights) > 1 else ""
    )
    return page + "\n"
