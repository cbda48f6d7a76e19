// A study: one item after the other, answers kept in the browser (localStorage), exported as JSON at any time.
"use strict";
(() => {
  const { study, items, errors } = JSON.parse(document.getElementById("items").textContent);
  const main = document.getElementById("study"), place = `titlesmith-study-${study}`;
  let state = { study, rater: crypto.getRandomValues(new Uint32Array(2)).join("-"), answers: {} };
  try { state = JSON.parse(localStorage.getItem(place)) ?? state; } catch { /* a browser that keeps nothing */ }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const heading = element("h2", { tabIndex: -1 }), part = element("div", {}), exporting = element("p", {});
  main.append(heading, part, exporting);
  exporting.append(element("button", { type: "button", onclick: save }, "Export the answers"));

  function keep() {
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { /* they are in the page until it is closed */ }
  }

  function save() {
    const file = new Blob([JSON.stringify(state, null, 1)], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(file), download: `answers-${state.rater}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function show(focus) {
    const number = items.findIndex((_, i) => !state.answers[i]);
    part.replaceChildren();
    if (number < 0) {
      heading.textContent = "Done. Thank you.";
      part.append(element("p", {}, "Export your answers and send the file to the person who asked you."));
    } else {
      heading.textContent = `Item ${number + 1} of ${items.length}`;
      const { kind, texts } = items[number];
      (kind === "pair" ? askPair : askSingle)(number, texts);
    }
    if (focus) heading.focus();
  }

  function answer(number, choice, chosen = []) {
    state.answers[number] = { choice, errors: chosen };
    keep();
    show(true);
  }

  function askPair(number, texts) {
    part.append(element("p", {}, "Which of the two did a model write?"));
    texts.forEach((text, choice) => part.append(
      element("button", { type: "button", className: "text", onclick: () => answer(number, choice) }, text)));
  }

  function askSingle(number, [text]) {
    const choices = element("div", { className: "choice" });
    const real = element("button", { type: "button", onclick: () => answer(number, 0) }, "Real");
    const generated = element("button", { type: "button", onclick: () => askErrors(number, choices) }, "Generated");
    choices.append(real, generated);
    part.append(element("p", { className: "text" }, text), choices);
  }

  function askErrors(number, choices) {
    const boxes = items[number].errors.map((value) => element("input", { type: "checkbox", value }));
    const done = element("button", { type: "button" }, "Next item");
    done.onclick = () => answer(number, 1, boxes.filter((box) => box.checked).map((box) => box.value));
    const legend = element("legend", { tabIndex: -1 }, "Generated. What is wrong with it? (any number)");
    choices.replaceWith(element("fieldset", {}, legend, ...boxes.map((box) => element("label", {}, box, ` ${box.value}: ${errors[box.value]}`)), done));
    legend.focus();
  }

  show(false);
})();
