// Corrects accessible names of the theme that differ from the visible text, so that speech input and screen readers use
// the visible text; and the list of citations, whose entries are not list items. Tables get the headings of their cells,
// which telephones show in place of columns.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".search-button-field, summary").forEach((part) => {
    if (part.textContent.trim()) part.removeAttribute("aria-label");
    else part.setAttribute("aria-label", "Pages below"); // the arrows of the sidebar have no name at all
  });
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  document.querySelectorAll(".bd-article table.table").forEach((table) => {
    const headings = [...table.querySelectorAll("thead th")].map((heading) => heading.textContent);
    table.parentElement.classList.add("titlesmith-table");
    table.querySelectorAll("tbody tr").forEach((row) => [...row.cells].forEach((cell, i) => (cell.dataset.label = headings[i])));
  });
});
