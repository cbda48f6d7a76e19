// Turns the list on a run's page "Real or generated?" into a quiz. Buttons are native, so that keyboards work; a live
// region announces whether the answer was right, and then the next button has the focus.
"use strict";
(() => {
  const quiz = document.getElementById("quiz");
  const list = quiz.querySelector("ol");
  const items = [...list.children];

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const place = element("h2", { id: "quiz-place", tabIndex: -1 });
  const text = element("p", { className: "quiz-text", id: "quiz-question" });
  const told = element("p", { className: "quiz-told" });
  told.setAttribute("role", "status"); // a live region, created before its first message
  const buttons = ["real", "generated"].map((kind) =>
    element("button", { type: "button", onclick: () => answer(kind) }, kind === "real" ? "Real" : "Generated"));
  const next = element("button", { type: "button", hidden: true, onclick: () => show(at + 1, true) });
  const again = element("button", { type: "button", onclick: () => start(true) }, "Start again");
  const choice = element("div", { className: "quiz-choice" }, ...buttons);
  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", "Who wrote it?");
  const question = element("div", { className: "quiz-question" }, place, text, choice);
  const foot = element("div", { className: "quiz-choice" }, next);
  let at, given;

  function start(focus) {
    given = [];
    list.hidden = true;
    again.remove();
    question.append(text, choice);
    quiz.append(question, told, foot);
    show(0, focus);
  }

  function show(number, focus) {
    if (number === items.length) return end();
    at = number;
    place.textContent = `Text ${at + 1} of ${items.length}`;
    text.textContent = items[at].querySelector(".quiz-text").textContent;
    told.textContent = "";
    told.className = "quiz-told";
    next.hidden = true;
    buttons.forEach((button) => { button.disabled = false; button.removeAttribute("aria-pressed"); });
    if (focus) place.focus();
  }

  function answer(kind) {
    const item = items[at];
    const right = kind === item.dataset.answer;
    given[at] = right;
    const note = item.querySelector("details p").textContent;
    told.textContent = `${right ? "\u2713 Right." : "\u2717 Wrong."} ${note}`;
    told.classList.add(right ? "quiz-right" : "quiz-wrong");
    buttons.forEach((button) => {
      button.setAttribute("aria-pressed", String(button.textContent.toLowerCase() === kind));
      button.disabled = true;
    });
    next.textContent = at + 1 < items.length ? "Next text" : "See the score";
    next.hidden = false;
    next.focus();
  }

  function end() {
    const right = given.filter(Boolean).length;
    place.textContent = `${right} of ${items.length} right`;
    told.className = "quiz-told";
    told.textContent = `Guessing gets ${items.length / 2} right on average. Below is who wrote which.`;
    text.remove();
    choice.remove();
    next.hidden = true;
    foot.append(again);
    items.forEach((item, number) => {
      const details = item.querySelector("details");
      details.open = true;
      details.firstChild.textContent = given[number] ? "\u2713 you were right" : "\u2717 you were wrong";
    });
    list.hidden = false;
    quiz.append(list);
    place.focus();
  }

  start(false); // a page that opens does not take the focus
})();
