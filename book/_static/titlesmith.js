// Names that the theme gives its parts and that differ from what they show, so that speech input and screen readers find
// them under what is seen; and the list of citations, whose entries are no list items.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".search-button-field, summary").forEach((part) => {
    if (part.textContent.trim()) part.removeAttribute("aria-label");
    else part.setAttribute("aria-label", "Pages below"); // the arrows of the sidebar have no name at all
  });
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
});
