"""Write again what docs take from the code: python docs/regenerate.py

The tables of columns and flags in docs/format.md; the pages of docs/methods/ (method_pages.py), of every other kind of entry (entry_pages.py), and
of the commands (command_pages.py); docs/systems.md (systems_page.py). What the pages have in common is in pages.py.
"""

import re
from pathlib import Path

from apportion.formats.flags import FLAGS
from apportion.stages.commands.schema import schema

PAGE = Path(__file__).parent / "format.md"


def regenerated(page: str) -> str:
    """The page with the tables of the schema, and of the flags, as they are."""
    return _fill(_fill(page, "apportion schema --as markdown", schema(form="markdown").text), "flags", flags_table())


def _fill(page: str, name: str, content: str) -> str:
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    return block.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", page)


def flags_table() -> str:
    """One row a flag."""
    rows = [
        f"| `{flag.name}` | {flag.set_by if ' stage ' in flag.set_by else f'`{flag.set_by}`'} | {flag.meaning} | {'yes' if flag.trained else 'no'} |"
        for flag in FLAGS.values()
    ]
    return "\n".join(["| flag | set by | meaning | trained on |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    import command_pages
    import entry_pages
    import method_pages
    import systems_page

    PAGE.write_text(regenerated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    method_pages.regenerate()
    entry_pages.regenerate()
    command_pages.regenerate()
    systems_page.regenerate()
