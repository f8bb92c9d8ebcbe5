"""JSON Schemas of the commands' `--json` output, generated from the printed dataclasses.

`python -m cammsr_cli.json_schemas FOLDER` writes them. The schemas of this version are in
docs/reference/schemas; a test checks that they are the same, and that outputs match them.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from cammsr_encoders.contract import Finding as EncoderFinding
from pydantic import TypeAdapter

from cammsr_cli.data.summary import Summary
from cammsr_cli.doctor import Finding
from cammsr_cli.export.run import Exported
from cammsr_cli.files import written_whole
from cammsr_cli.plugins.encoder_info import EncoderFacts
from cammsr_cli.plugins.registry import EncoderEntry
from cammsr_cli.prepare.dataset_parts import MergeReport
from cammsr_cli.prepare.report import PrepareReport
from cammsr_cli.ranking.evaluate import Evaluation
from cammsr_cli.ranking.recommendation_file import Written
from cammsr_cli.ranking.recommendations import Recall, RecommendedList
from cammsr_cli.runs.comparison import RunSummary
from cammsr_cli.training.reports import Outcome
from cammsr_cli.training.tune import Found

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, Schema]:
    """Return the schema of each output, by file name."""
    lists = _of(RecommendedList)
    lists["properties"]["recommendations"] = lists["properties"].pop("items")
    lists["required"] = ["user", "popular", "recommendations"]
    facts = _of(EncoderFacts)
    of_entry = _of(EncoderEntry)
    del facts["properties"]["entry"], facts["$defs"]["EncoderEntry"]
    facts["properties"] = {**of_entry["properties"], **facts["properties"]}
    facts["required"] = list(facts["properties"])
    found = {
        "prepare": _of(PrepareReport),
        "merge": _of(MergeReport),
        "info": _of(Summary),
        "train": _with(_of(Outcome), run=str),
        "train-list-settings": _list_of(_with(_object(), setting=str, default=str, help=str)),
        "tune": _of(Found),
        "evaluate": _with(_of(Evaluation), run=str),
        "recommend": _list_of(lists),
        "recommend-to-a-file": _with(_of(Written), recall=Recall | None),
        "export": _of(Exported),
        "runs": _list_of(_of(RunSummary)),
        "encoders-list": _list_of(_of(EncoderEntry)),
        "encoders-info": facts,
        "encoders-check": _list_of(_with(_of(EncoderFinding), passed=bool)),
        "doctor": _list_of(_with(_of(Finding), ok=bool)),
    }
    return {
        name: {"$schema": DIALECT, "title": f"cammsr {name.replace('-', ' ')} --json", **schema}
        for name, schema in found.items()
    }


def write_schemas(folder: Path) -> None:
    """Write one file per schema."""
    for name, schema in schemas().items():
        with written_whole(folder / f"{name}.json") as partial:
            partial.write_text(as_text(schema), encoding="utf-8")


def as_text(schema: Schema) -> str:
    """Return the text of a schema's file."""
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"


def _of(kind: Any) -> Schema:
    """Return the schema of a type as it is printed: all fields are required, others forbidden."""
    schema: Schema = TypeAdapter(kind).json_schema(mode="serialization")
    schema.pop("title", None)
    for one in (schema, *schema.get("$defs", {}).values()):
        if "properties" in one:
            one["required"] = list(one["properties"])
            one["additionalProperties"] = False
            one.pop("description", None)  # a docstring, with "Attributes:"
            for field in one["properties"].values():
                field.pop("title", None)
                field.pop("default", None)
    return schema


def _object() -> Schema:
    return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def _with(schema: Schema, **fields: Any) -> Schema:
    """Return the schema of an object with additional fields."""
    more = copy.deepcopy(schema)
    for name, kind in fields.items():
        field = _of(kind)
        more.setdefault("$defs", {}).update(field.pop("$defs", {}))
        more["properties"][name] = field
    more["required"] = list(more["properties"])
    return {name: value for name, value in more.items() if name != "$defs" or value}


def _list_of(schema: Schema) -> Schema:
    """Return the schema of a list; references stay at the root."""
    item = copy.deepcopy(schema)
    defs = item.pop("$defs", None)
    return {"type": "array", "items": item} | ({"$defs": defs} if defs else {})


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
