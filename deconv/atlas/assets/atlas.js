/* What turns, sorts and opens in the pages. Without it everything is still there, and every link works. */
"use strict";

const byId = (id) => document.getElementById(id);

function listen(key) {
  const plain = !key.altKey && !key.ctrlKey && !key.metaKey && !key.shiftKey;
  return plain && !key.defaultPrevented && !key.target.closest("select, input:not([type=radio]), textarea");
}

/* Arrow keys in a grid of links: to the link beside, above or below, wherever the lines break. */
function nearest(links, from, key) {
  const at = links.indexOf(from);
  if (at < 0) return links[0];
  if (key === "ArrowLeft") return links[at - 1];
  if (key === "ArrowRight") return links[at + 1];
  const here = from.getBoundingClientRect();
  const side = key === "ArrowDown" ? 1 : -1;
  const away = (link) => (link.getBoundingClientRect().top - here.top) * side;
  const others = links.filter((link) => away(link) > here.height / 2);
  const row = Math.min(...others.map(away));
  const aside = (link) => Math.abs(link.getBoundingClientRect().left - here.left);
  return others.filter((link) => away(link) < row + 2).sort((a, b) => aside(a) - aside(b))[0];
}

function walkGrid(grid) {
  document.addEventListener("keydown", (key) => {
    if (!key.key.startsWith("Arrow") || !listen(key) || key.target.matches("input")) return;
    const links = [...grid.querySelectorAll("a")];
    const inside = links.includes(document.activeElement);
    if (!inside && (key.key === "ArrowUp" || key.key === "ArrowDown")) return; // the page scrolls
    const next = nearest(links, document.activeElement, key.key);
    if (!next) return;
    next.focus();
    key.preventDefault();
  });
}

function follow(rel) {
  const link = document.querySelector(`a[rel="${rel}"]`);
  if (link) link.click();
  return Boolean(link);
}

function turnPages(relOfKey) {
  document.addEventListener("keydown", (key) => {
    if (relOfKey[key.key] && listen(key) && !document.querySelector("dialog[open]") && follow(relOfKey[key.key]))
      key.preventDefault();
  });
}

/* What a text finds in search.js: classes and images whose names hold it, or only those that it is the whole name of. */
function found(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const named = (names) => {
    const whole = new Set(), holding = new Set();
    names.forEach((name, n) => {
      const lower = name.toLowerCase();
      if (lower === wanted) whole.add(n);
      if (lower.includes(wanted)) holding.add(n);
    });
    return whole.size ? whole : holding;
  };
  return { classes: named(atlasIndex.classes), images: named(atlasIndex.images.map((image) => image[1])) };
}

/* How many peaks of a unit lie in what was found, and whether it prefers a class of it; null if neither. */
function matching([unit, preferred, images], what) {
  const peaks = images.filter((n) => what.images.has(n) || what.classes.has(atlasIndex.images[n][2])).length;
  const prefers = what.classes.has(preferred);
  return peaks || prefers ? { unit, peaks, prefers, of: images.length } : null;
}

const MOST_SHOWN = 16;

function make(kind, properties, ...inside) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...inside);
  return element;
}

/* A name in parts, between which its line may break. */
function breakable(name) {
  return name.split(/(?<=[/_.@-])/).flatMap((part, n) => (n ? [make("wbr", {}), part] : [part]));
}

/* The front page: the photographs and the units that a class or an image leads to. */
function searchPage(form) {
  const box = byId("find");
  const results = byId("results");
  const list = (kind, items) => make("ol", { className: kind }, ...items.map((item) => make("li", {}, item)));

  function shot([id, key, ofClass]) {
    const picture = make("img", { src: `images/${String(id).padStart(6, "0")}.jpg`, alt: "", loading: "lazy" });
    const link = make("a", { href: `#find=${encodeURIComponent(key)}` }, picture, ...breakable(key));
    if (ofClass >= 0) link.title = atlasIndex.classes[ofClass];
    return link;
  }

  function unitLink(layer, { unit, peaks, of, prefers }) {
    const { across, down } = atlasIndex;
    const place = unit % (across * down);
    const sheet = layer.sheets[Math.floor(unit / (across * down))];
    const image = make("img", { src: `${layer.folder}/${sheet}`, alt: `Unit ${unit} of ${layer.name}` });
    image.className = `recon r${Math.floor(place / across)} c${place % across}`;
    const words = make("span", { className: "number" }, `${peaks} of ${of}`);
    const name = make("span", { className: "name" }, `${unit}${prefers ? " *" : ""}`);
    const page = `${layer.folder}/unit-${String(unit).padStart(4, "0")}.html`;
    return make("a", { href: page }, make("span", { className: "crop" }, image), name, " ", words);
  }

  function search() {
    const what = found(box.value);
    results.hidden = !what;
    results.replaceChildren();
    byId("matching").textContent = "";
    if (!what) return;
    const images = atlasIndex.images.filter((image, n) => what.images.has(n) || what.classes.has(image[2]));
    let units = 0;
    let starred = false;
    const layers = [];
    for (const layer of [...atlasIndex.layers].reverse()) {
      const matches = layer.units.map((unit) => matching(unit, what)).filter(Boolean);
      matches.sort((a, b) => b.prefers - a.prefers || b.peaks - a.peaks || a.unit - b.unit);
      units += matches.length;
      starred ||= matches.some((match) => match.prefers);
      if (!matches.length) continue;
      const heading = make("h2", {}, ...breakable(layer.name), `: ${matches.length} unit${matches.length === 1 ? "" : "s"} `);
      if (matches.length > MOST_SHOWN) {
        const all = `${layer.folder}/index.html#find=${encodeURIComponent(box.value)}`;
        heading.append(make("a", { href: all }, "all of them"));
      }
      layers.push(heading, list("units few", matches.slice(0, MOST_SHOWN).map((match) => unitLink(layer, match))));
    }
    const classes = [...what.classes].map((n) => atlasIndex.classes[n]);
    const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
    byId("matching").textContent = `${plural(images.length, "photograph")}, ${plural(units, "unit")}`;
    if (classes.length) {
      const more = classes.length > MOST_SHOWN ? ` and ${classes.length - MOST_SHOWN} more` : "";
      results.append(make("p", { className: "note" }, `Classes: ${classes.slice(0, MOST_SHOWN).join("; ")}${more}.`));
    }
    if (starred) results.append(make("p", { className: "note" }, "A star: the unit prefers the class."));
    results.append(list("shots", images.slice(0, MOST_SHOWN).map(shot)), ...layers);
  }

  function read() {
    box.value = new URLSearchParams(location.hash.slice(1)).get("find") ?? "";
    search();
  }

  box.addEventListener("input", () => {
    search();
    const hash = box.value ? `#find=${encodeURIComponent(box.value)}` : location.pathname + location.search;
    history.replaceState(null, "", hash);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  addEventListener("hashchange", read);
  read();
}

/* The layer page: reconstructions, patches or what in them, and the order. Both stay in the address, so that it can be shared. */
function layerPage(grid) {
  const controls = byId("controls");
  const sort = byId("sort");
  const box = byId("find");
  const indexed = atlasIndex.layers[Number(grid.dataset.layer)];
  const items = [...grid.querySelectorAll("li[data-unit]")];
  const dead = [...grid.querySelectorAll("li.dead")];

  function show(kind) {
    for (const other of ["patch", "masked"]) document.body.classList.toggle(`show-${other}`, kind === other);
    controls.elements.show.value = kind;
  }

  function order(by) {
    const column = by === "" ? 0 : Number(by);
    const value = (item) => item.dataset.numbers.split("|")[column];
    const size = (item) => (value(item) === "" ? -Infinity : Number(value(item)));
    const unit = (item) => Number(item.dataset.unit);
    items.sort(by === "" ? (a, b) => unit(a) - unit(b) : (a, b) => size(b) - size(a) || unit(a) - unit(b));
    for (const item of items) item.querySelector(".number").textContent = brief(value(item));
    grid.append(...items, ...dead);
    sort.value = by;
    document.body.classList.toggle("show-class", sort.selectedOptions[0].text.startsWith("class selectivity"));
  }

  function only(text) {
    const what = found(text);
    const stay = new Set(what ? indexed.units.filter((unit) => matching(unit, what)).map((unit) => unit[0]) : []);
    for (const item of items) item.hidden = Boolean(what) && !stay.has(Number(item.dataset.unit));
    for (const item of dead) item.hidden = Boolean(what);
    byId("matching").textContent = what ? `${stay.size} of ${items.length}` : "";
    if (box.value !== text) box.value = text;
  }

  function read() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    only(wanted.get("find") ?? "");
    const by = wanted.get("sort") ?? sort.dataset.usual;
    show(["patch", "masked"].includes(wanted.get("show")) ? wanted.get("show") : "recon");
    order([...sort.options].some((option) => option.value === by) ? by : sort.dataset.usual);
  }

  function keep() {
    const find = box.value ? `&find=${encodeURIComponent(box.value)}` : "";
    history.replaceState(null, "", `#sort=${sort.value}&show=${controls.elements.show.value}${find}`);
  }

  box.addEventListener("input", () => {
    only(box.value);
    keep();
  });
  controls.addEventListener("submit", (event) => event.preventDefault());

  controls.addEventListener("change", (event) => {
    if (event.target === box) return;
    if (event.target === sort) order(sort.value);
    else show(controls.elements.show.value);
    keep();
  });
  document.addEventListener("keydown", (key) => {
    const kind = { p: "patch", m: "masked" }[key.key.toLowerCase()];
    if (!kind || !listen(key)) return;
    show(controls.elements.show.value === kind ? "recon" : kind);
    keep();
  });
  controls.hidden = false;
  read();
  addEventListener("hashchange", read);
}

function brief(text) {
  const number = Number(text);
  if (text === "") return "–";
  return Number.isInteger(number) || Math.abs(number) >= 1000 ? number.toFixed(0) : number.toPrecision(3);
}

/* The unit page: a photograph opens over it, and its address is the page's with #peak-3 behind. */
function unitPage(viewer) {
  const figures = [...document.querySelectorAll("figure.whole")];
  let openedHere = false;

  function open(figure) {
    const copy = figure.cloneNode(true);
    copy.removeAttribute("id");
    const link = copy.querySelector("a");
    const pair = document.createElement("div");
    pair.className = link.className;
    pair.append(...link.childNodes);
    link.replaceWith(pair);
    byId("shown").replaceChildren(copy);
    viewer.dataset.number = figure.dataset.number;
    byId("earlier").disabled = figure === figures[0];
    byId("later").disabled = figure === figures.at(-1);
    if (!viewer.open) viewer.showModal();
  }

  function named(hash) {
    return figures.find((figure) => `#${figure.id}` === hash);
  }

  function step(by) {
    const figure = figures[Number(viewer.dataset.number) - 1 + by];
    if (!figure) return;
    history.replaceState(null, "", `#${figure.id}`);
    open(figure);
  }

  function follow() {
    const figure = named(location.hash);
    if (figure) open(figure);
    else if (viewer.open) viewer.close();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-peak]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openedHere = true;
    history.pushState(null, "", link.getAttribute("href"));
    open(named(link.getAttribute("href")));
  });
  viewer.addEventListener("close", () => {
    if (named(location.hash)) {
      if (openedHere) history.back();
      else history.replaceState(null, "", location.pathname + location.search);
    }
    openedHere = false;
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (key) => {
    if (key.key === "ArrowLeft") step(-1);
    if (key.key === "ArrowRight") step(1);
  });
  byId("earlier").addEventListener("click", () => step(-1));
  byId("later").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());
  addEventListener("popstate", follow);
  follow();
}

/* A reconstruction and its patch light up together. */
function pairUp(links) {
  for (const link of links) {
    const twins = links.filter((other) => other.dataset.peak === link.dataset.peak);
    const mark = (on) => twins.forEach((twin) => twin.classList.toggle("twin", on));
    for (const [event, on] of [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]])
      link.addEventListener(event, () => mark(on));
  }
}

function copyLink(button) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      byId("copied").textContent = "copied";
    } catch {
      byId("copied").textContent = "the browser does not allow it; the address above is the link";
    }
  });
}

const grid = document.querySelector("[data-grid]");
if (grid) walkGrid(grid);
if (byId("search")) searchPage(byId("search"));
if (byId("controls")) {
  layerPage(byId("units"));
  turnPages({ "[": "prev", "]": "next" });
}
if (byId("viewer")) {
  unitPage(byId("viewer"));
  pairUp([...document.querySelectorAll(".nine a")]);
  copyLink(byId("copy"));
  turnPages({ ArrowLeft: "prev", ArrowRight: "next", u: "up" });
}
