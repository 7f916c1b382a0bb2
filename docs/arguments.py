"""Arguments that a docstring explains one after the other in a paragraph, as a list on the reference's pages."""

import re
from typing import Any

from griffe import Extension, Object

NAMED = re.compile(r"(?:^|(?<=[.;])\s)(?=(?:``\w+``(?:, | and ))*``\w+``: )", re.MULTILINE)


def as_list(paragraph: str) -> str:
    """The paragraph with every `name: what it is` as an item; as it is where it does not begin with one."""
    first, *rest = NAMED.split(paragraph)
    items = [" ".join(one.split()) for one in rest]
    return "\n".join(f"- {one}" for one in items if one) if items and not first else paragraph


class Arguments(Extension):
    """Rewrites docstrings as they are loaded."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Turn the paragraphs of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(as_list, obj.docstring.value.split("\n\n")))
