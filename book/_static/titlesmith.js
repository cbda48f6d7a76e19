// Corrects accessible names of the theme that differ from the visible text, so that speech input and screen readers use
// the visible text; and the list of citations, whose entries are not list items.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".search-button-field, summary").forEach((part) => {
    if (part.textContent.trim()) part.removeAttribute("aria-label");
    else part.setAttribute("aria-label", "Pages below"); // the arrows of the sidebar have no name at all
  });
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
});
