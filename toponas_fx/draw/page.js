"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.cells.length) return;
  const { cells, texts, passes, flows, fates } = data;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const panel = document.getElementById("panel");
  const state = { cell: 0, edge: null, step: -1 };

  /* Names come from anybody's code: only text nodes are made of them. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  function draw(tag, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const unique = (values) => [...new Set(values)];
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const title = (edge) => `Edge ${edge.ends[0]} → ${edge.ends[1]}`;
  const edgeGroups = (number) => all(`.pair:not([hidden]) .edge[data-edge="${number}"]`);

  const faces = (number) => edgeGroups(number).filter((group) => group.classList.contains("face"));

  // -- cells ------------------------------------------------------------------------------------------------------

  function showCell(number) {
    state.cell = number;
    const cell = cells[number];
    for (const element of all(".pair, .as-table")) element.hidden = Number(element.dataset.kind) !== cell.kind;
    for (const button of all(".kinds button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.kind) === cell.kind));
    for (const part of all(".strip .part"))
      part.setAttribute("aria-pressed", String(Number(part.dataset.cell) === number));
    for (const where of all(".pair:not([hidden]) .where")) where.textContent = cell.path || "the whole model";
    cell.edges.forEach((edge, place) => {
      for (const bar of all(`.pair:not([hidden]) .edge[data-edge="${place}"] .row`)) {
        const candidate = edge.candidates[Number(bar.dataset.candidate)];
        const mark = bar.querySelector(".bar");
        if (mark && candidate)
          mark.setAttribute("width", Math.min(1, Math.abs(candidate.value ?? 0)) * Number(mark.dataset.bar));
      }
    });
    showStep(state.step);
    if (state.edge !== null) openEdge(state.edge < cell.edges.length ? state.edge : 0);
  }

  // -- the walk through the passes ----------------------------------------------------------------------------------

  const walked = passes.map((_, number) => number).filter((number) => {
    const touches = (candidate) => [...candidate.changes, ...candidate.refusals].some(([by]) => by === number);
    return passes[number][3] || cells.some((cell) => cell.edges.some((edge) => edge.candidates.some(touches)));
  });
  const list = document.getElementById("passes");
  [["overview", -1], ...walked.map((number, place) => [passes[number][0], place])].forEach(([name, place]) => {
    const button = make("button", { type: "button", "data-step": place }, name);
    button.addEventListener("click", () => showStep(place));
    list.append(make("li", {}, button));
  });

  /* Sentences that differ only in quoted names are one, with how often it was said. */
  function grouped(numbers) {
    const found = new Map();
    for (const number of numbers) {
      const key = texts[number].replace(/`[^`]*`/g, "`").replace(/\d+ times/, "times");
      if (!found.has(key)) found.set(key, [texts[number], 0]);
      found.get(key)[1] += 1;
    }
    return [...found.values()].map(([text, times]) => (times > 1 ? `${text} (and ${times - 1} alike)` : text));
  }

  function showStep(step) {
    state.step = Math.max(-1, Math.min(walked.length - 1, step));
    const told = document.getElementById("told");
    told.replaceChildren();
    document.body.classList.toggle("walking", state.step >= 0);
    document.getElementById("back").disabled = state.step < 0;
    document.getElementById("next").disabled = state.step === walked.length - 1;
    for (const button of all("#passes button")) {
      if (Number(button.dataset.step) === state.step) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    for (const part of all(".changed")) part.classList.remove("changed");
    if (state.step < 0) {
      const reading = "Each card is an edge of the cell with its candidate operations, shaded by their architecture weights; each line " +
        "is one path that is computed. On the right, candidates in one box are computed by one path.";
      const hint = "Point at an edge, or reach it with Tab, to see what became of it. ← and → walk through what the compiler did, pass by pass.";
      told.append(make("p", { class: "promise" }, reading), make("p", { class: "promise" }, hint));
      return;
    }
    const number = walked[state.step];
    const [name, about, promise, changes, before, after] = passes[number];
    const said = [], refused = [];
    let touched = 0;
    cells[state.cell].edges.forEach((edge, place) => {
      let isTouched = false;
      edge.candidates.forEach((candidate, row) => {
        const own = candidate.changes.filter(([by]) => by === number).map(([, text]) => text);
        said.push(...own);
        refused.push(...candidate.refusals.filter(([by]) => by === number).map(([, text]) => text));
        if (!own.length) return;
        isTouched = true;
        for (const group of edgeGroups(place))
          for (const line of all(`.row[data-candidate="${row}"]`, group)) line.classList.add("changed");
      });
      if (isTouched) for (const group of edgeGroups(place)) group.classList.add("changed");
      touched += isTouched;
    });
    const costs = ["convolution", "norm", "graph node"].flatMap((noun, place) =>
      before[place] === after[place] ? [] : [`${count(before[place], noun)} → ${after[place].toLocaleString("en")}`]);
    const where = `${count(changes, "change")} in the model, on ${touched} of ${count(cells[state.cell].edges.length, "edge")} of this cell`;
    told.append(make("div", {}, make("p", {}, make("strong", {}, `${name}: `), about), make("p", { class: "promise" }, `Promise: ${promise}.`),
      make("p", { class: "promise" }, [where, ...costs].join(" · "))));
    const lines = [...grouped(unique(said)), ...grouped(unique(refused)).map((text) => `refused: ${text}`)];
    const shown = lines.slice(0, 4).map((text) => make("li", {}, text));
    if (lines.length > 4) shown.push(make("li", {}, `and ${lines.length - 4} more`));
    told.append(make("ul", {}, ...shown));
    if (state.edge !== null) openEdge(state.edge);
  }

  // -- one edge -----------------------------------------------------------------------------------------------------

  function openEdge(number) {
    state.edge = number;
    const edge = cells[state.cell].edges[number];
    for (const group of all(".edge.chosen, .edge.partner")) group.classList.remove("chosen", "partner");
    for (const group of edgeGroups(number)) group.classList.add("chosen");
    for (const [cell, partner] of edge.terms.flatMap((term) => term.partners))
      if (cell === state.cell) for (const group of edgeGroups(partner)) group.classList.add("partner");
    const close = make("button", { type: "button", class: "close", "aria-label": "close" }, "×");
    close.addEventListener("click", closeEdge);
    const types = unique([edge.ends[2], edge.ends[3]].filter(Boolean)).join(" → ");
    panel.replaceChildren(
      make("div", { class: "top" }, make("h2", {}, title(edge)), make("span", { class: "path" }, edge.name),
        make("span", { class: "type" }, types), close),
      make("div", { class: "columns" }, weightsOf(edge), changesOf(edge), deedsOf(edge)),
    );
    panel.hidden = false;
    document.body.classList.add("open");
    const hidden = Math.max(...faces(number).map((face) => face.getBoundingClientRect().bottom)) + 12 - panel.getBoundingClientRect().top;
    if (hidden > 0) window.scrollBy({ top: hidden });
  }

  function closeEdge() {
    const number = state.edge;
    state.edge = null;
    panel.hidden = true;
    document.body.classList.remove("open");
    for (const group of all(".edge.chosen, .edge.partner")) group.classList.remove("chosen", "partner");
    if (number !== null && panel.contains(document.activeElement)) faces(number)[0]?.focus();
  }

  function weightsOf(edge) {
    const rows = [...edge.candidates, ...(edge.around ? [edge.around] : [])].map((candidate) => {
      const isAround = candidate === edge.around;
      const value = candidate.value;
      const bar = make("i");
      bar.style.width = `${Math.min(1, Math.abs(value ?? 0)) * 100}%`;
      bar.style.background = `var(--${candidate.fate})`;
      return make("tr", {},
        make("td", { class: "mark" }, make("span", { class: `swatch ${candidate.fate}`, title: fates[candidate.fate] })),
        make("td", {}, isAround ? "the edge as a whole" : texts[candidate.name], make("div", { class: "ops" }, `${texts[candidate.weight]} · ${texts[candidate.ops]}`)),
        make("td", { class: "meter" }, make("div", { "aria-hidden": "true" }, bar)),
        make("td", { class: "number" }, value === null ? "–" : value.toFixed(3)));
    });
    return make("section", {}, make("h3", {}, edge.how ? `Candidate operations, ${edge.how}` : "Candidate operations and their weights when drawn"),
      make("table", { class: "weights" }, make("tbody", {}, ...rows)));
  }

  function changesOf(edge) {
    const section = make("section", {}, make("h3", {}, "What it computes"));
    const [written, becomes] = edge.algebra.map((number) => texts[number]);
    section.append(make("p", { class: "formula" }, written), make("p", { class: "formula" }, edge.how && becomes === written ? "→ the same" : `→ ${becomes}`));
    const [before, after] = edge.costs;
    if (after) {
      const line = (name, place, show) => {
        const old = before ? before[place] : null;
        return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, old === null ? "–" : show(old)),
          make("td", {}, "→"), make("td", {}, after[place] === null ? "–" : show(after[place])));
      };
      const plain = (value) => value.toLocaleString("en");
      section.append(make("table", { class: "price" }, make("tbody", {}, line("convolutions", 0, plain), line("norms", 1, plain),
        line("FLOPs", 2, (value) => (value >= 1e6 ? `${(value / 1e6).toPrecision(3)} M` : plain(value))))));
    }
    const pictures = [...edge.terms].sort((one, other) => other.covers.length - one.covers.length).map((term) => flowOf(edge, term));
    section.append(make("h3", {}, edge.how ? `Now: ${edge.how}` : `Now: a sum of ${count(edge.terms.length, "term")}`), make("div", { class: "flows" }, ...pictures));
    return section;
  }

  function flowOf(edge, term) {
    const [steps, links] = flows[term.flow];
    const name = term.covers.length > 1 ? `${term.covers.length} candidates merged` : term.covers.length ? texts[edge.candidates[term.covers[0]].name] : term.label;
    const rows = Math.max(1, ...steps.map((step) => step[3] + 1));
    const columns = Math.max(0, ...steps.map((step) => step[2] + 1));
    const [width, height, stepX, stepY, top] = [112, 19, 120, 29, 20];
    const at = (index) => (index < 0 ? [whole / 2, top - 10] : [steps[index][3] * stepX + stepX / 2 + (whole - rows * stepX) / 2, top + steps[index][2] * stepY]);
    const whole = Math.max(rows * stepX, name.length * 6.6);
    const svg = draw("svg", { class: "flow", width: whole, height: top + columns * stepY + 4, role: "img" });
    svg.append(draw("title", {}, `${name}: ${steps.map((step) => step[0]).join(", then ") || "the value itself"}`));
    svg.append(draw("text", { class: "caption", x: whole / 2, y: 10 }, name));
    for (const [from, to] of links) {
      if (from < 0) continue;
      const [x1, y1] = at(from), [x2, y2] = at(to);
      svg.append(draw("path", { d: `M${x1} ${y1 + height}C${x1} ${y1 + height + 8} ${x2} ${y2 - 8} ${x2} ${y2}` }));
    }
    steps.forEach(([label, fate], index) => {
      const [x, y] = at(index);
      svg.append(draw("g", { class: fate }, draw("rect", { x: x - width / 2, y, width, height, rx: 4 }),
        draw("text", { x, y: y + 13 }, label)));
    });
    if (!steps.length) svg.setAttribute("height", 24);
    return svg;
  }

  function deedsOf(edge) {
    const now = state.step < 0 ? -1 : walked[state.step];
    const collect = (kind) => {
      const found = new Map();
      for (const candidate of edge.candidates)
        for (const [by, text] of candidate[kind]) found.set(`${by} ${text}`, [by, text, [...(found.get(`${by} ${text}`)?.[2] ?? []), texts[candidate.name]]]);
      return [...found.values()].sort((one, other) => one[0] - other[0]);
    };
    const items = (entries) => entries.map(([by, text, names]) => make("li", { class: by === now ? "now" : "" },
      make("b", {}, passes[by][0]), ` ${texts[text]}`, make("span", {}, unique(names).join(", "))));
    const section = make("section", {}, make("h3", {}, "What the passes did, in order"));
    const done = collect("changes"), refused = collect("refusals");
    section.append(done.length ? make("ol", { class: "deeds" }, ...items(done)) : make("p", {}, "nothing"));
    if (refused.length)
      section.append(make("h3", {}, "What they refused, and why"), make("ul", { class: "deeds refused" }, ...items(refused)));
    return section;
  }

  // -- pointer and keyboard -----------------------------------------------------------------------------------------

  for (const group of all(".edge")) {
    const number = Number(group.dataset.edge);
    let waiting = 0;
    group.addEventListener("click", () => openEdge(number));
    group.addEventListener("focus", () => { if (group.matches(":focus-visible")) openEdge(number); });
    group.addEventListener("pointerenter", (event) => {
      for (const other of edgeGroups(number)) other.classList.add("also");
      const isCovered = event.clientY > window.innerHeight - Math.min(window.innerHeight * 0.44, 390);
      if (event.pointerType === "mouse" && !isCovered) waiting = setTimeout(() => openEdge(number), 160);
    });
    group.addEventListener("pointerleave", () => {
      clearTimeout(waiting);
      for (const other of edgeGroups(number)) other.classList.remove("also");
    });
  }
  for (const part of all(".strip .part")) part.addEventListener("click", () => showCell(Number(part.dataset.cell)));
  for (const button of all(".kinds button"))
    button.addEventListener("click", () => showCell(cells.findIndex((cell) => cell.kind === Number(button.dataset.kind))));
  document.getElementById("back").addEventListener("click", () => showStep(state.step - 1));
  document.getElementById("next").addEventListener("click", () => showStep(state.step + 1));
  document.addEventListener("keydown", (event) => {
    const held = event.target.closest?.('[role="button"]');
    if (held && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      held.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    }
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowRight") showStep(state.step + 1);
    else if (event.key === "ArrowLeft") showStep(state.step - 1);
    else if (event.key === "Escape") closeEdge();
    else return;
    event.preventDefault();
  });
  showCell(0);
})();
