"use strict";
// Sorts and filters tables that are whole and readable without this.
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function key(row, column) {
  const cell = row.cells[column];
  return cell.dataset.sort ?? cell.textContent.trim();
}

function sort(table, header, column) {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => collator.compare(key(a, column), key(b, column)));
  body.append(...(down ? rows.reverse() : rows));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, header, column));
    header.replaceChildren(button);
    header.setAttribute("aria-sort", "none");
  });
}

const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("table.cards tbody tr")];
filter.closest("label").hidden = rows.length < 2;
filter.addEventListener("input", () => {
  const words = filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = `${row.textContent} ${row.dataset.words ?? ""}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = words.length ? `${shown} of ${rows.length} models` : "";
});

// A link to an environment opens it.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", open);
open();
