"use strict";

/** Compare two keys; a missing one comes last whatever the direction. */
function compareKeys(a, b, numeric, direction) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  return direction * (numeric ? Number(a) - Number(b) : a.localeCompare(b));
}

/** Sort a table by a column; a second time turns the order round. Figures begin with the largest. */
function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const numeric = "numeric" in heading.dataset;
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of heading.parentNode.cells) {
    if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", each === heading ? order : "none");
  }
  const direction = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.key;
  body.append(...[...body.rows].sort((a, b) => compareKeys(key(a), key(b), numeric, direction)));
}

for (const heading of document.querySelectorAll("table.sortable th[aria-sort]")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}

for (const input of document.querySelectorAll("input.filter")) {
  const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(wanted);
  });
}

const dialog = document.getElementById("large");
for (const button of document.querySelectorAll("button.picture")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("p").textContent = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
