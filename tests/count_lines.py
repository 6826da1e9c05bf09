"""Lines of code (no blank lines, comments or docstrings) of each file in the chain from documents to text."""

import ast
import io
import sys
import tokenize
from pathlib import Path

LIMIT = 3500
OUTSIDE = {"bench.py", "bench_data.py", "bench_model.py", "bench_wiki.py"}  # measure the chain, are not part of it


def code_lines(source: str) -> int:
    """Lines that hold a token other than comments and docstrings."""
    strings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings.update(range(node.lineno, node.end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines.update(range(token.start[0], token.end[0] + 1))
    end = source.count("\n") + 1
    return len(lines - strings - {end})


def main() -> None:
    """Print the count by file and exit 1 above the limit."""
    counts = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in sorted(Path(".").glob("*.py"))}
    chain = {name: count for name, count in counts.items() if name not in OUTSIDE}
    for name, count in counts.items():
        print(f"{name:<20}{count:>6}" + ("  (not counted)" if name in OUTSIDE else ""))
    print(f"{'total':<20}{sum(chain.values()):>6}  of at most {LIMIT} lines of code")
    sys.exit(sum(chain.values()) > LIMIT)


if __name__ == "__main__":
    main()
