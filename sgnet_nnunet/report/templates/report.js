"use strict";

/** Return what a cell is sorted by: its first text as a number if it is one, null for a dash. */
function keyOf(cell) {
  const text = cell.firstChild ? cell.firstChild.textContent.trim() : "";
  if (text === "–" || text === "") return null;
  const number = parseFloat(text.replace(/^< /, "").replaceAll(",", ""));
  return Number.isNaN(number) || cell.tagName === "TH" ? cell.textContent : number;
}

/** Compare two keys; a missing one comes last whatever the direction. */
function compareKeys(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  const numeric = typeof a === "number" && typeof b === "number";
  return direction * (numeric ? a - b : String(a).localeCompare(String(b)));
}

/** Sort a table by a column; a second time turns the order round. Numbers begin with the largest. */
function sortBy(heading) {
  const body = heading.closest("table").tBodies[0];
  const key = (row) => keyOf(row.cells[heading.cellIndex]);
  const numeric = [...body.rows].some((row) => typeof key(row) === "number");
  const [first, other] = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of heading.parentNode.querySelectorAll("th")) {
    each.setAttribute("aria-sort", each === heading ? order : "none");
  }
  const direction = order === "ascending" ? 1 : -1;
  body.append(...[...body.rows].sort((a, b) => compareKeys(key(a), key(b), direction)));
}

for (const heading of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = heading.title;
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sortBy(heading));
  heading.append(button);
  heading.setAttribute("aria-sort", "none");
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
