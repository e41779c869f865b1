"use strict";
// What all sections are made of. Text reaches the page as text alone, never as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const HUES = 6;
const [ONE, MANY] = DATA.pictures ? ["image", "images"] : ["example", "examples"];

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const hue = (run) => `var(--c${run % HUES})`;
const percent = (value, digits = 1) => (100 * value).toFixed(digits) + "%";
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const whole = (value) => Math.round(value).toLocaleString("en");
const several = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;

function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return whole(value);
  const size = Math.abs(value);
  return size >= 100 ? whole(value) : size < 0.001 ? value.toExponential(1) : value.toPrecision(3);
}

function say(text) { document.getElementById("said").textContent = text; }

// Commands, which can be copied.

function command(text) {
  const code = el("code", {}, text.split(" ").flatMap((part) => [el("span", {}, part), " "]));
  const button = el("button", { type: "button", "aria-label": `Copy: ${text}`, onclick: async () => {
    button.textContent = await copy(text, code) ? "Copied" : "Selected";
    say(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return el("div", { class: "command" }, code, button);
}

// Whether the clipboard has it; else it is selected, for the reader to copy.

async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

// Sections.

function section(id, link, title, ...children) {
  document.getElementById("nav").append(el("a", { href: "#" + id }, link));
  const node = el("section", { id, "aria-labelledby": id + "-title" },
    el("h2", { id: id + "-title" }, title), ...children);
  document.getElementById("content").append(node);
  return node;
}

// Pictures: parts of a sheet, which is one picture of many.

const sheets = [];

function useSheet(sheet) {
  if (!sheet) return null; // examples that are no images have none
  sheet.name = "sheet-" + sheets.push(sheet);
  document.head.append(el("style", {}, `.${sheet.name}{background-image:url(${sheet.url})}`));
  return sheet;
}

function thumb(sheet, index, size, label) {
  if (!sheet) return null;
  const scale = size / Math.max(sheet.width, sheet.height);
  const [w, h] = [sheet.width * scale, sheet.height * scale];
  const [row, column] = [Math.floor(index / sheet.columns), index % sheet.columns];
  return el("span", {
    class: `thumb ${sheet.name}` + (sheet.width > 32 ? " smooth" : ""),
    role: label ? "img" : null, "aria-label": label || null, "aria-hidden": label ? null : "true",
    style: {
      width: w + "px", height: h + "px",
      "background-size": `${sheet.columns * w}px ${sheet.rows * h}px`,
      "background-position": `${-column * w}px ${-row * h}px`,
    },
  });
}

const className = (label) => label < 0 ? "no class" : DATA.classes[label] ?? String(label);
const ofClass = (label) => label < 0 ? "" : (/^\d+$/.test(className(label)) ? "class " : "") + className(label);

// Tips.

function showTip(x, y, ...children) {
  const tip = document.getElementById("tip");
  tip.replaceChildren(...children);
  tip.hidden = false;
  tip.style.left = "0px"; // measured where nothing squeezes it
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(y + 12, innerHeight - box.height - 4)) + "px";
}

function hideTip() { document.getElementById("tip").hidden = true; }

// Themes. The choice is kept for all reports, where the browser keeps anything for files.

const redraws = [];
const THEME = "caco-report-theme";

function remember(theme) {
  try {
    if (theme) localStorage.setItem(THEME, theme);
    return localStorage.getItem(THEME);
  } catch {
    return theme;
  }
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function themes() {
  const button = document.getElementById("theme");
  const label = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours");
    redraws.forEach((redraw) => redraw());
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = remember(dark() ? "light" : "dark");
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}

if (["light", "dark"].includes(remember())) document.documentElement.dataset.theme = remember();

// Lets the pointer and the arrow keys go over a canvas.
// `visit` gets what `under(event)` finds, what `next([right, down])` leads to, or null.

const WAYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function explore(canvas, visit, { under, next }) {
  for (const kind of ["mousemove", "click"]) canvas.addEventListener(kind, (event) => visit(under(event)));
  for (const kind of ["mouseleave", "blur"]) canvas.addEventListener(kind, () => visit(null));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") visit(null);
    if (!WAYS[event.key]) return;
    event.preventDefault();
    visit(next(WAYS[event.key]));
  });
}

// Moves the focus among the children of a grid with the arrow keys.

function roving(grid, choose) {
  grid.addEventListener("keydown", (event) => {
    const items = [...grid.children];
    const at = items.indexOf(document.activeElement);
    if (at < 0) return;
    const top = items[0].offsetTop;
    const columns = Math.max(1, items.findIndex((item) => item.offsetTop > top));
    const row = items.some((item) => item.offsetTop > top) ? columns : items.length;
    const to = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row,
      Home: 0, End: items.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = items[Math.max(0, Math.min(items.length - 1, to))];
    items[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  grid.addEventListener("click", (event) => {
    const item = event.target.closest("button");
    if (item) choose(item);
  });
}
