// Tables of class "sortable": each heading becomes a button that sorts by its column, and a link below saves the table
// as CSV. Without this script they stay plain tables.
"use strict";
(() => {
  const value = (cell) => cell.dataset.value ?? cell.textContent;
  const compare = (a, b) =>
    a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b, undefined, { numeric: true });

  function sort(table, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[heading.cellIndex]), row]);
    rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function csv(table) {
    // A spreadsheet would compute text that begins like a formula; numbers stay numbers
    const guard = (text) => (isNaN(text) && /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(text) ? `'${text}` : text);
    const quote = (field) => (/[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field);
    const rows = [...table.rows].map((row) => [...row.cells].map((cell) => quote(guard(value(cell)))).join(","));
    return "\ufeff" + rows.join("\r\n") + "\r\n"; // the mark tells spreadsheets that it is UTF-8
  }

  function enhance(table) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
    const link = document.createElement("a");
    link.textContent = "Download as CSV";
    link.href = "#";
    link.download = table.dataset.file;
    link.addEventListener("click", () => {
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    table.after(link);
  }

  const style = document.createElement("style");
  style.textContent = `
    table.sortable th button { all: unset; cursor: pointer; font: inherit; }
    table.sortable th button:focus-visible { outline: 2px solid; outline-offset: 2px; }
    table.sortable th button::after { content: " \\2195"; }
    table.sortable th[aria-sort="ascending"] button::after { content: " \\2191"; }
    table.sortable th[aria-sort="descending"] button::after { content: " \\2193"; }`;
  document.head.append(style);
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("table.sortable").forEach(enhance));
})();
