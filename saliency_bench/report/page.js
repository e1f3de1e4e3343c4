// Makes every table sortable by its headings, and long ones searchable. The page's policy allows this text alone, by its hash.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => row.cells[column].firstChild?.textContent.trim() ?? "";
  const compare = (a, b) => {
    const [x, y] = [parseFloat(a), parseFloat(b)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.localeCompare(b);
    return x - y;
  };
  const numeric = (column) => rows.some((row) => !isNaN(parseFloat(value(row, column))));
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      // Numbers begin with the largest, words with A.
      const falling = heading.ariaSort ? heading.ariaSort === "ascending" : numeric(column);
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      heading.ariaSort = falling ? "descending" : "ascending";
      const known = rows.filter((row) => value(row, column) !== "–");
      known.sort((a, b) => compare(value(a, column), value(b, column)) * (falling ? -1 : 1));
      body.append(...known, ...rows.filter((row) => value(row, column) === "–"));
    });
  });
  if (rows.length > 12) {
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "show rows with …";
    search.ariaLabel = "Show rows with";
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    table.parentElement.before(search);
  }
}
