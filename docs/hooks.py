"""What mkdocs does with a page that Markdown alone does not."""

import re


def on_page_content(html: str, **_: object) -> str:
    """Show an escaped bar in a cell's code as a bar; keep options and figures, ``to 2 %``, in a line."""
    html = re.sub(r"<td.*?</td>", lambda cell: cell[0].replace(r"\|", "|"), html, flags=re.DOTALL)
    option, kept = r"(?<![\w-])--[a-z][\w.-]*", r'<span class="option">\g<0></span>'
    html = re.sub(r"<code.*?</code>", lambda code: re.sub(option, kept, code[0]), html, flags=re.DOTALL)
    figure = r"(<pre.*?</pre>)|(?<=\d) (?=%)|(?<=\d to) (?=[-+]?\d)"
    return re.sub(figure, lambda part: part[1] or "&nbsp;", html, flags=re.DOTALL)
