"""A name means one thing: no two modules of the project share one, nor do two public functions or classes."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A module that runs its package; the entry point of a command.
EXEMPT = {"__init__", "__main__", "main"}


def test_a_public_name_occurs_once():
    modules, definitions = defaultdict(list), defaultdict(list)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("hf_utils/**/*.py")]:
        modules[path.stem].append(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                definitions[node.name].append(path)
    assert len(modules) > 100 and len(definitions) > 400  # all were looked at
    for homes in (modules, definitions):
        assert {name: places for name, places in homes.items() if len(places) > 1 and name not in EXEMPT} == {}
