// The box "Write titles": the model of gpt2.js, loaded at the first click, writes titles one by one.
"use strict";
(() => {
  const ROUNDS = 5; // times that a text is sampled until it is finished, clean and new
  const SLICE = 30; // milliseconds of computing, after which the page may react
  const models = new Map();

  /** The model in a file, which is read once. */
  function open(address) {
    if (!models.has(address)) models.set(address, load(address));
    return models.get(address);
  }

  async function load(address) {
    const script = Object.assign(document.createElement("script"), { src: address });
    await new Promise((done, failed) => {
      Object.assign(script, { onload: done, onerror: () => failed(new Error(`${address} cannot be read`)) });
      document.head.append(script);
    });
    const packed = new Blob([titlesmithGPT2.unpack(window.titlesmithModel)]);
    delete window.titlesmithModel;
    script.remove();
    return new titlesmithGPT2.Model(await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  }

  /** A function to await often: the page reacts between its calls. */
  function pause() {
    let since = performance.now();
    return async () => {
      if (performance.now() - since < SLICE) return;
      await new Promise((done) => setTimeout(done));
      since = performance.now();
    };
  }

  function enhance(form) {
    const [list, status, button] = [form.querySelector("ol"), form.querySelector("[role=status]"), form.querySelector("button")];
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (form.getAttribute("aria-busy") === "true") return;
      const { beginning, temperature, count } = form.elements;
      const prefix = beginning.value.normalize("NFC").replace(/[\s\p{Cc}]/gu, " ").trimStart();
      form.setAttribute("aria-busy", "true");
      list.replaceChildren();
      try {
        status.textContent = `Loading the model, ${form.dataset.size} …`;
        const model = await open(form.dataset.model), seen = new Set(), breathe = pause();
        const room = model.shape.n_ctx - model.start.length - model.encode(prefix).length;
        if (room < 2) throw new Error("the beginning is too long for this model");
        const wanted = Math.min(50, Math.max(1, Math.round(count.valueAsNumber) || 10));
        const heat = Math.min(2, Math.max(0.05, temperature.valueAsNumber || 0.8));
        const candidates = model.heal(model.lowercase ? prefix.toLowerCase() : prefix);
        for (let number = 1; number <= wanted; number++) {
          status.textContent = `Title ${number} of ${wanted} …`;
          let made;
          for (let round = 0; round < ROUNDS; round++) {
            made = await model.write(prefix, candidates, heat, breathe);
            if (made.good && !seen.has(made.text)) break;
          }
          seen.add(made.text);
          show(list, made.text, model.isCopy(made.text));
        }
        status.textContent = `${wanted} title${wanted === 1 ? "" : "s"} written in this browser.`;
      } catch (error) {
        status.textContent = `No titles: ${error.message}.`;
      }
      form.removeAttribute("aria-busy");
    });
    form.hidden = false;
    button.disabled = false;
  }

  function show(list, text, copied) {
    const item = Object.assign(document.createElement("li"), { textContent: text });
    if (copied) {
      const mark = Object.assign(document.createElement("span"), { className: "run-mark", textContent: "copy of a training title" });
      item.append(" ", mark);
    }
    list.append(item);
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("form.writer").forEach(enhance));
  window.titlesmithWriter = { open };
})();
