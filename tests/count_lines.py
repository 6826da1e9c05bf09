"""Lines of code (no blank lines, comments or docstrings) of each file in the chain from documents to text."""

import ast
import io
import sys
import tokenize
from pathlib import Path

LIMIT = 3500
SCRIPTS = ("prepare_wiki", "dedup", "train", "sample")  # the chain is these and what they import; not what measures it


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


def imports(source: str) -> set[str]:
    """Names of the modules that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def chain(sources: dict[str, str]) -> set[str]:
    """The modules that the scripts of the chain reach, directly or not."""
    found, waiting = set(), list(SCRIPTS)
    while waiting:
        name = waiting.pop()
        if name in sources and name not in found:
            found.add(name)
            waiting += imports(sources[name])
    return found


def main() -> None:
    """Print the count by file and exit 1 above the limit."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(".").glob("*.py"))}
    inside, counts = chain(sources), {name: code_lines(source) for name, source in sources.items()}
    for name, count in counts.items():
        print(f"{name + '.py':<20}{count:>6}" + ("" if name in inside else "  (not in the chain)"))
    total = sum(counts[name] for name in inside)
    print(f"{'total':<20}{total:>6}  of at most {LIMIT} lines of code")
    sys.exit(total > LIMIT)


if __name__ == "__main__":
    main()
