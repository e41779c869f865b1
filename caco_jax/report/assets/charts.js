// Learning curves, by uPlot.

const METRICS = {
  loss: ["Loss", "nats"],
  knn: [`kNN accuracy, held-out ${MANY}`, "%"],
  cross_entropy: ["Cross entropy over the candidates", "nats"],
  positive_probability: ["Probability of the positive", ""],
  embedding_std: ["Spread of the embeddings", "1: whole sphere, 0: a point"],
  bank_used_ever: ["Bank entries that ever were a positive", "%"],
  bank_used_recently: ["Bank entries in use, last 100 steps", "%"],
  online_linear: ["Linear head trained alongside", "%"],
  online_effective_rank: ["Effective rank of the features", "directions"],
};
const FIRST = ["loss", "knn"];

function curves() {
  if (!DATA.curves.length) return;
  const place = (curve) => (FIRST.indexOf(curve.name) + FIRST.length + 1) % (FIRST.length + 1);
  const sorted = [...DATA.curves].sort((a, b) => place(a) - place(b));
  const charts = el("div", { class: "charts" });
  section("curves", "Curves", "How it learned",
    el("p", { class: "lead" }, "Hover for values, drag to zoom, double-click to see all again. ",
      "With the keyboard: arrows move, + and − zoom, Escape shows all."), charts);
  const plots = sorted.map((curve) => chart(charts, curve));
  redraws.push(() => plots.forEach((plot) => plot.redraw(false)));
  const fit = () => plots.forEach((plot) => plot.setSize(
    { width: plot.root.parentNode.clientWidth, height: 220 }));
  new ResizeObserver(fit).observe(charts);
}

function series(curve) {
  const text = valueText(curve);
  const value = (plot, at, line, index) => text(index === null ? plot.data[line].findLast((of) => of !== null) : at);
  const lines = curve.series.map((values, run) => {
    const sparse = values.filter((value) => value !== null).length < values.length / 2;
    return {
      label: DATA.runs[run], stroke: () => css("--c" + run % HUES), width: 2, spanGaps: true,
      dash: run >= HUES ? [6, 3] : undefined,
      points: { show: sparse || values.length < 3, size: 6 },
      value,
    };
  });
  if (curve.chance !== null) lines.push({
    label: "knows nothing", stroke: () => css("--muted"), width: 1, dash: [4, 4],
    points: { show: false }, value,
  });
  return lines;
}

function chart(parent, curve) {
  const [title, unit] = METRICS[curve.name] || [curve.name.replaceAll("_", " "), ""];
  const holder = el("div", {
    tabindex: 0, role: "group", "data-metric": curve.name,
    "aria-label": `Chart over epochs: ${title}. Arrow keys read values, plus and minus zoom.`,
  });
  parent.append(el("figure", { class: "card" },
    el("figcaption", {}, title, el("span", { class: "unit" }, unit)), holder));
  const axis = {
    stroke: () => css("--muted"), grid: { stroke: () => css("--grid"), width: 1 },
    ticks: { show: false }, font: "12px system-ui, sans-serif",
  };
  const level = curve.chance === null ? [] : [curve.x.map(() => curve.chance)];
  const plot = new uPlot({
    width: holder.clientWidth || 300, height: 220,
    cursor: { sync: { key: "curves" }, points: { size: 8 } },
    scales: { x: { time: false } },
    series: [{ label: "epoch", value: (_, value) => whole(value ?? curve.x.at(-1)) }, ...series(curve)],
    axes: [{ ...axis, size: 32 }, { ...axis, size: 54, values: (_, ticks) => ticks.map(tickText(curve)) }],
  }, [curve.x, ...curve.series, ...level], holder);
  holder.querySelector("canvas").setAttribute("aria-hidden", "true");
  holder.addEventListener("keydown", (event) => steer(plot, curve, title, event));
  return plot;
}

const isShare = (curve) => (METRICS[curve.name] || [])[1] === "%";
const valueText = (curve) => isShare(curve) ? (value) => value === null || value === undefined ? "–" : percent(value) : number;
const tickText = (curve) => isShare(curve) ? (value) => +(100 * value).toFixed(2) + "%"
  : (value) => Math.abs(value) >= 1000 ? whole(value) : String(+value.toPrecision(3));

function steer(plot, curve, title, event) {
  const last = curve.x.length - 1;
  const at = plot.cursor.idx ?? last;
  const { min, max } = plot.scales.x;
  const middle = curve.x[at];
  const half = (max - min) / 2;
  const zoom = (scale) => plot.setScale("x", {
    min: Math.max(curve.x[0], middle - half * scale), max: Math.min(curve.x[last], middle + half * scale),
  });
  const moves = {
    ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => last,
    "+": () => (zoom(0.5), at), "=": () => (zoom(0.5), at), "-": () => (zoom(2), at),
    Escape: () => (plot.setScale("x", { min: curve.x[0], max: curve.x[last] }), at),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  const to = Math.max(0, Math.min(last, moves[event.key]()));
  plot.setCursor({ left: plot.valToPos(curve.x[to], "x"), top: 20 });
  const values = curve.series.map((of, run) => `${DATA.runs[run]} ${valueText(curve)(of[to])}`);
  say(`${title}, epoch ${curve.x[to]}: ${values.join(", ")}`);
}

// The map of held-out images.

const CLASS_COLOURS = ["#3b82d6", "#e8743b", "#19a979", "#c756c9", "#d9a514", "#e5484d",
  "#13a4b4", "#8b6fd8", "#8a8f98", "#7aa52b"];

function classColour(label) {
  if (label < 0) return "#3b82d6";
  return DATA.classes.length <= CLASS_COLOURS.length
    ? CLASS_COLOURS[label] : `hsl(${(label * 137.508) % 360} 62% ${label % 2 ? 46 : 60}%)`;
}

function map() {
  if (!DATA.map) {
    if (DATA.train) section("map", "Map", `Where held-out ${MANY} lie`, el("p", {}, "They are too few for a map."));
    return;
  }
  const { points, labels } = DATA.map;
  const sheet = useSheet(DATA.map.sheet);
  const state = { over: null, only: new Set() };
  const canvas = el("canvas", {
    tabindex: 0, role: "img",
    "aria-label": `Map of ${points.length} ${MANY}. Arrow keys go from ${ONE} to ${ONE}.`,
    style: { "aspect-ratio": "5 / 4" },
  });
  const draw = () => drawMap(canvas, points, labels, state);
  const classes = [...new Set(labels)].filter((label) => label >= 0).sort((a, b) => a - b);
  section("map", "Map", `Where held-out ${MANY} lie`,
    el("p", { class: "lead" }, `${whole(points.length)} ${MANY} by t-SNE of their backbone features`,
      classes.length ? ", coloured by class. The classes chose no position, only the colours." : "."),
    el("div", { class: "plot" }, canvas, classLegend(classes, state, draw)));
  const visit = (index) => {
    state.over = index;
    draw();
    if (index === null) { hideTip(); return; }
    const box = canvas.getBoundingClientRect();
    const [x, y] = position(points[index], box.width, box.height);
    showTip(box.left + x, box.top + y, el("div", { class: "thumbs" }, thumb(sheet, index, 96)),
      el("div", {}, ofClass(labels[index]) || `${ONE} ${index}`));
    if (document.activeElement === canvas) say(`${capital(ONE)} ${index}, ${ofClass(labels[index])}`);
  };
  explore(canvas, visit, {
    under: (event) => nearestPoint(canvas, points, event),
    next: (way) => state.over === null ? 0 : along(points, state.over, way),
  });
  redraws.push(draw);
  new ResizeObserver(draw).observe(canvas);
}

function classLegend(classes, state, draw) {
  const buttons = classes.map((label) => el("button", {
    type: "button", "aria-pressed": "false",
    onclick: (event) => {
      const on = !state.only.delete(label);
      if (on) state.only.add(label);
      event.currentTarget.setAttribute("aria-pressed", String(on));
      draw();
    },
  }, el("span", { class: "run", style: { "--hue": classColour(label), margin: 0 } }), className(label)));
  return el("div", {}, classes.length ? el("p", { class: "note" }, "Show only:") : null,
    el("div", { class: "classes" }, buttons));
}

function position([x, y], width, height) {
  const edge = 10;
  return [edge + x * (width - 2 * edge), edge + y * (height - 2 * edge)];
}

function fitCanvas(canvas) {
  const box = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, box.width, box.height];
}

function drawMap(canvas, points, labels, state) {
  const [context, width, height] = fitCanvas(canvas);
  const shown = (label) => !state.only.size || state.only.has(label);
  points.forEach((point, index) => {
    const [x, y] = position(point, width, height);
    context.globalAlpha = shown(labels[index]) ? 0.9 : 0.1;
    context.fillStyle = classColour(labels[index]);
    context.beginPath();
    context.arc(x, y, index === state.over ? 8 : 4, 0, 7);
    context.fill();
    if (index === state.over) {
      context.lineWidth = 2;
      context.strokeStyle = css("--ink");
      context.stroke();
    }
  });
}

function nearestPoint(canvas, points, event) {
  const box = canvas.getBoundingClientRect();
  const [mx, my] = [event.clientX - box.left, event.clientY - box.top];
  let [best, least] = [null, 18 * 18];
  points.forEach((point, index) => {
    const [x, y] = position(point, box.width, box.height);
    const far = (x - mx) ** 2 + (y - my) ** 2;
    if (far < least) [best, least] = [index, far];
  });
  return best;
}

function along(points, from, [dx, dy]) {
  let [best, least] = [from, Infinity];
  points.forEach(([x, y], index) => {
    const [ax, ay] = [x - points[from][0], y - points[from][1]];
    const ahead = ax * dx + ay * dy;
    const aside = Math.abs(ax * dy) + Math.abs(ay * dx);
    if (index !== from && ahead > 0 && ahead + 2 * aside < least) [best, least] = [index, ahead + 2 * aside];
  });
  return best;
}

// The heat-map of pair weights.

const RAMP = [[26, 16, 61], [70, 35, 120], [143, 41, 129], [214, 69, 108], [250, 130, 87], [252, 208, 137], [252, 253, 214]];

function rampColour(level) {
  const at = (level / 255) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((value, i) => Math.round(value + (at - low) * (RAMP[low + 1][i] - value)));
}

function heatMap() {
  const pairs = DATA.pairs;
  if (!pairs) return;
  const count = pairs.labels.length;
  const levels = Uint8Array.from(atob(pairs.bytes), (character) => character.charCodeAt(0));
  const classes = pairs.labels[0] >= 0;
  const canvas = el("canvas", {
    tabindex: 0, role: "img", style: { "aspect-ratio": "1", "image-rendering": "pixelated" },
    "aria-label": `Heat-map of the weights of ${count} by ${count} pairs of ${MANY}. Arrow keys go from pair to pair.`,
  });
  const cell = el("span", { class: "cell", hidden: true });
  const field = el("div", { class: "field" }, canvas, cell);
  section("pairs", "Pairs", `Which pairs of ${MANY} count`,
    el("p", { class: "lead" }, `The weight of every pair among ${count} training ${MANY}, by ${pairs.name}. `,
      classes ? `Sorted by class: bright blocks on the diagonal mean that ${MANY} of one class weigh most as each other's negatives.`
        : `There are no classes: similar ${MANY} lie side by side.`),
    el("div", { class: "plot even" }, el("div", { class: "heat" }, field), weightsInWords(pairs, count)));
  if (classes) edges(pairs.labels, field);
  paint(canvas, levels, count);
  visitPairs(canvas, cell, pairs, levels, count);
}

function weightsInWords(pairs, count) {
  const share = pairs.same_class_share;
  const colours = RAMP.map((colour) => `rgb(${colour})`).join();
  return el("div", {},
    el("div", { class: "ramp", style: { background: `linear-gradient(90deg, ${colours})` } }),
    el("div", { class: "ends" }, el("span", {}, "≤ " + number(pairs.low)), el("span", {}, number(pairs.high))),
    el("p", { class: "note" }, "weight in the row, logarithmic"),
    share === null ? null : el("p", {}, el("strong", {}, percent(share)),
      ` of the weight is on pairs of one class; by chance it would be ${percent(pairs.chance)}.`),
    el("p", {}, "A row weighs as if it had ", el("strong", {}, number(pairs.effective_negatives)), ` negatives of ${count - 1}.`));
}

function visitPairs(canvas, cell, pairs, levels, count) {
  let at = null;
  const inside = (index) => Math.max(0, Math.min(count - 1, index));
  const visit = (pair) => {
    at = pair && pair.map(inside);
    cell.hidden = !at;
    if (!at) { hideTip(); return; }
    const [row, column] = at;
    Object.entries({ left: column, top: row, width: 1, height: 1 })
      .forEach(([name, cells]) => { cell.style[name] = 100 * cells / count + "%"; });
    const weight = pairs.low * (pairs.high / pairs.low) ** (levels[row * count + column] / 255);
    const text = row === column ? `the ${ONE} with itself: no pair` : "weight " + number(weight);
    const names = at.map((image) => ofClass(pairs.labels[image])).filter(Boolean).join(" and ");
    const box = cell.getBoundingClientRect();
    showTip(box.right, box.bottom,
      el("div", { class: "thumbs" }, at.map((image) => thumb(DATA.train.sheet, pairs.images[image], 64))),
      el("div", {}, names ? names + ": " : "", text));
    if (document.activeElement === canvas) say(names ? `${text}, ${names}` : text);
  };
  explore(canvas, visit, {
    under: (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width]
        .map((share) => Math.floor(share * count));
    },
    next: ([right, down]) => at === null ? [0, 0] : [at[0] + down, at[1] + right],
  });
}

function paint(canvas, levels, count) {
  canvas.width = canvas.height = count;
  const context = canvas.getContext("2d");
  const image = context.createImageData(count, count);
  levels.forEach((level, at) => image.data.set([...rampColour(level), 255], 4 * at));
  context.putImageData(image, 0, 0);
}

function edges(labels, field) {
  const firsts = labels.map((label, at) => at === 0 || label !== labels[at - 1] ? at : -1).filter((at) => at >= 0);
  if (firsts.length > 20) return; // too many names to be read
  const long = firsts.some((first) => className(labels[first]).length > 3);
  const room = long ? "5.5rem" : "2.2rem";
  field.parentNode.style.paddingLeft = long ? "5.9rem" : "2.6rem";
  firsts.forEach((first, i) => {
    const last = firsts[i + 1] ?? labels.length;
    const [middle, width] = [50 * (first + last) / labels.length, 100 * (last - first) / labels.length];
    const name = className(labels[first]);
    field.append(
      el("span", { class: "edge", title: name, style: { bottom: "calc(100% + .35rem)", left: middle - width / 2 + "%", width: width + "%", "text-align": "center" } }, name),
      el("span", { class: "edge", title: name, style: { right: "calc(100% + .4rem)", top: middle + "%", width: room, "text-align": "right", transform: "translateY(-50%)" } }, name));
  });
}
