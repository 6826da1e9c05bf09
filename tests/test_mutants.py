"""The list of mutants follows the code; `python tests/mutants.py` tries them."""

import ast

from conftest import REPO
from mutants import read_mutants


def test_each_text_to_change_is_there_once_and_each_test_exists():
    functions = {}
    for path in REPO.glob("tests/test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions[path.name] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}

    for mutant in read_mutants():
        source = (REPO / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.old) == 1, mutant
        assert mutant.new != mutant.old, mutant

        name, _, test = mutant.test.removeprefix("tests/").partition("::")
        assert test.partition("[")[0] in functions[name], mutant
