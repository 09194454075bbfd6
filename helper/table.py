"""A table that a notebook shows as HTML, and everything else as text."""

from html import escape


class Table:
    """Rows of strings, the first one the header, the last column on the right; and a note."""

    def __init__(self, rows, note):
        self.rows, self.note = rows, note

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        cells = [
            [*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])] for row in self.rows
        ]
        return "\n".join([*map("  ".join, cells), self.note])

    def _repr_html_(self):
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows]
        rows[0] = rows[0].replace("td>", "th>")
        return f"<table><tr>{'</tr><tr>'.join(rows)}</tr></table><p>{escape(self.note)}</p>"
