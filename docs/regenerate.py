"""Write again what docs take from the code: python docs/regenerate.py

The tables of docs/format.md; the pages of docs/methods/ (method_pages.py), of every other kind of entry (entry_pages.py), and
of the commands (command_pages.py); docs/systems.md (systems_page.py). What the pages have in common is in pages.py.
"""

import re
from pathlib import Path

from apportion.stages.commands.schema import schema

PAGE = Path(__file__).parent / "format.md"
BLOCK = re.compile(r"(<!-- apportion schema --as markdown -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def regenerated(page: str) -> str:
    """The page with the tables of the schema as it is."""
    tables = schema(form="markdown").text
    return BLOCK.sub(lambda found: f"{found[1]}\n{tables}\n\n{found[2]}", page)


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
