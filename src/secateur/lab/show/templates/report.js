"use strict";
// What the page can do beyond being read: values at the pointer, series switched by their legend, tables sorted,
// light or dark. Every word is set as text, never as markup.
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("marks").textContent);
  const hidden = new Set();
  const views = [];

  function make(tag, words, parent, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (words) made.textContent = words;
    if (parent) parent.append(made);
    return made;
  }

  function draw(tag, attributes, parent) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  }

  // Light, dark, or as the system says.

  function remember(theme) {
    try { localStorage.setItem("secateur-theme", theme); } catch { /* private mode: it holds for this view alone */ }
  }

  function remembered() {
    try { return localStorage.getItem("secateur-theme"); } catch { return null; }
  }

  function themed(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  const controls = make("div", "", document.querySelector(".head"), { className: "controls" });
  const label = make("label", "Theme ", controls);
  const choice = make("select", "", label, { id: "theme" });
  for (const theme of ["auto", "light", "dark"]) make("option", theme, choice, { value: theme });
  choice.value = ["light", "dark"].includes(remembered()) ? remembered() : "auto";
  themed(choice.value);
  choice.addEventListener("change", () => { themed(choice.value); remember(choice.value); });

  // Values at the pointer.

  const tip = make("div", "", document.body, { id: "tip" });
  tip.setAttribute("role", "status");

  function show(view, point) {
    view.at = point;
    view.ring?.remove();
    const box = "w" in point;
    view.ring = box
      ? draw("rect", { class: "ring", x: point.x, y: point.y, width: point.w, height: point.h }, view.svg)
      : draw("circle", { class: "ring", cx: point.x, cy: point.y, r: 6 }, view.svg);
    tip.replaceChildren();
    make("b", point.s.join(", "), tip);
    const list = make("dl", "", tip);
    for (const [name, value] of point.rows) { make("dt", name, list); make("dd", value, list); }
    place(view);
    tip.style.visibility = "visible";
  }

  function place(view) {
    const point = view.at, matrix = view.svg.getScreenCTM();
    const at = new DOMPoint(point.x + (point.w ?? 0) / 2, point.y).matrixTransform(matrix);
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.x + 14), root.clientWidth - size.width - 8);
    const top = at.y - size.height - 12;
    tip.style.transform = `translate(${Math.max(8, left)}px, ${top < 8 ? at.y + 16 : top}px)`;
  }

  function leave(view) {
    view.ring?.remove();
    view.at = view.ring = null;
    tip.style.visibility = "hidden";
  }

  function seen(view) {
    return view.points.filter((point) => !point.s.some((name) => hidden.has(name)));
  }

  // A box holds the pointer or does not; of the points the nearest one within reach.
  function nearest(view, x, y) {
    let best = null, least = 16;
    for (const point of seen(view)) {
      if ("w" in point) {
        if (x >= point.x && x <= point.x + point.w && y >= point.y && y <= point.y + point.h) return point;
        continue;
      }
      const distance = Math.hypot(point.x - x, point.y - y);
      if (distance < least) { best = point; least = distance; }
    }
    return best;
  }

  function pointed(view, event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(view.svg.getScreenCTM().inverse());
    const point = nearest(view, at.x, at.y);
    if (point === null) leave(view);
    else if (point !== view.at) show(view, point);
  }

  function stepped(view, event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") leave(view);
    if (step === undefined || event.target !== view.plot) return;
    const points = seen(view);
    if (!points.length) return;
    event.preventDefault();
    const now = points.indexOf(view.at);
    const next = now < 0 ? (step > 0 ? 0 : points.length - 1) : (now + step + points.length) % points.length;
    show(view, points[next]);
    view.ring.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // A legend's entries switch their series in all figures.

  function element(view, id) {
    return document.getElementById(`${view.name}-${id}`);
  }

  function refresh() {
    for (const view of views) {
      for (const [id, series] of Object.entries(view.artists)) {
        element(view, id)?.classList.toggle("off", series.some((name) => hidden.has(name)));
      }
      for (const { name, ids, button } of view.switches) {
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        for (const id of ids) element(view, id)?.classList.toggle("faint", hidden.has(name));
      }
      leave(view);
    }
    all.hidden = hidden.size === 0;
  }

  function switched(name) {
    if (!hidden.delete(name)) hidden.add(name);
    refresh();
  }

  function entry(view, name, ids) {
    const boxes = ids.map((id) => element(view, id)).filter(Boolean).map((part) => part.getBBox());
    if (!boxes.length) return;
    const x = Math.min(...boxes.map((box) => box.x)) - 3, y = Math.min(...boxes.map((box) => box.y)) - 3;
    const right = Math.max(...boxes.map((box) => box.x + box.width)) + 3;
    const bottom = Math.max(...boxes.map((box) => box.y + box.height)) + 3;
    const button = draw("rect", { class: "switch", x, y, width: right - x, height: bottom - y, rx: 3, tabindex: 0,
      role: "button", "aria-pressed": "true", "aria-label": `show ${name}` }, view.svg);
    button.addEventListener("click", () => switched(name));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      switched(name);
    });
    view.switches.push({ name, ids, button });
  }

  function start(plot) {
    const svg = plot.querySelector("svg"), name = plot.dataset.figure, { artists, legend, points } = figures[name];
    const view = { plot, svg, name, artists, points, switches: [], at: null, ring: null };
    const tied = new Set(Object.values(artists).flat());
    svg.setAttribute("role", "group"); // an image's parts could not be reached by keyboard
    for (const [series, ids] of legend) if (tied.has(series)) entry(view, series, ids);
    svg.addEventListener("pointermove", (event) => pointed(view, event));
    svg.addEventListener("pointerdown", (event) => pointed(view, event));
    svg.addEventListener("pointerleave", () => leave(view));
    plot.addEventListener("keydown", (event) => stepped(view, event));
    plot.addEventListener("blur", () => leave(view));
    views.push(view);
  }

  // Tables by any column: rising, falling, as they were.

  function compared(one, two, column) {
    const [a, b] = [one, two].map((row) => row.cells[column]);
    const [x, y] = [a, b].map((cell) => (cell.dataset.key ? Number(cell.dataset.key) : null));
    if (x !== null && y !== null) return x - y;
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }

  function lacking(row, column) {
    return /^[–\s]*$/.test(row.cells[column].textContent);
  }

  function sorted(table, rows, head, column) {
    const order = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") ?? "none"];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    let shown = rows;
    if (order !== "none") {
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const there = rows.filter((row) => !lacking(row, column)); // what is missing stays below
      there.sort((one, two) => sign * compared(one, two, column));
      shown = [...there, ...rows.filter((row) => lacking(row, column))];
    }
    table.tBodies[0].append(...shown);
  }

  function sortable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 2) return;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sorted(table, rows, head, column));
    });
  }

  const hint = make("span", "", controls);
  const all = make("button", "Show all series", controls, { type: "button", hidden: true });
  all.addEventListener("click", () => { hidden.clear(); refresh(); });
  const started = new Set();
  // Of a figure's two forms the one that the page's width shows; the other has no size yet.
  function begin() {
    for (const plot of document.querySelectorAll(".plot[data-figure]")) {
      if (started.has(plot) || !plot.checkVisibility()) continue;
      started.add(plot);
      start(plot);
    }
    refresh();
  }
  begin();
  matchMedia("(max-width: 40rem)").addEventListener("change", begin);
  document.querySelectorAll("table").forEach(sortable);
  if (views.length) {
    hint.textContent = "Point at a figure, or use the arrow keys in it, for its values. A name in a legend hides its series in all figures.";
  }
  // Captured, as a wide figure scrolls by itself and its events do not rise.
  addEventListener("scroll", () => { for (const view of views) if (view.at) place(view); }, { passive: true, capture: true });
  root.dataset.script = "ready";
})();
