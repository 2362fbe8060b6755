"use strict";
// Optional: sorts tables, sets the opacity, enlarges panels and shows details of matrix cells. The page works without.

const slider = document.getElementById("opacity");
slider.parentElement.hidden = false;
slider.addEventListener("input", () => {
  document.documentElement.style.setProperty("--opacity", slider.value / 100);
  slider.nextElementSibling.textContent = `${slider.value} %`;
});

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // classes without a value stay last
    return direction * (column === 0 ? x.localeCompare(y) : x - y);
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.classList.contains("unsorted")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending ? 1 : -1);
    });
  });
}

for (const readout of document.querySelectorAll(".readout")) {
  const caption = readout.textContent;
  const table = readout.nextElementSibling;
  table.addEventListener("mouseover", (event) => { readout.textContent = event.target.closest("tbody td")?.title || caption; });
  table.addEventListener("mouseleave", () => { readout.textContent = caption; });
}

for (const panel of document.querySelectorAll(".panel")) {
  const toggle = () => panel.setAttribute("aria-expanded", panel.classList.toggle("wide"));
  panel.tabIndex = 0;
  panel.setAttribute("role", "button");
  panel.setAttribute("aria-expanded", "false");
  panel.addEventListener("click", toggle);
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
}
