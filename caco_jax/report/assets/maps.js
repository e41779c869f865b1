// Canvases: the embedding map of held-out images, and the heat-map of pair weights.

const CLASS_COLOURS = ["#3b82d6", "#e8743b", "#19a979", "#c756c9", "#d9a514", "#e5484d",
  "#13a4b4", "#8b6fd8", "#8a8f98", "#7aa52b"];

function classColour(label) {
  if (label < 0) return "#3b82d6";
  return DATA.classes.length <= CLASS_COLOURS.length
    ? CLASS_COLOURS[label] : `hsl(${(label * 137.508) % 360} 62% ${label % 2 ? 46 : 60}%)`;
}

function map() {
  if (!DATA.map) {
    if (DATA.train) section("map", "Embedding map", "Embedding map", el("p", {}, `There are too few held-out ${MANY} for a map.`));
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
  section("map", "Embedding map", "Embedding map",
    el("p", { class: "lead" }, `This is a t-SNE of the backbone features of ${whole(points.length)} held-out ${MANY}. `,
      classes.length ? "Colours show the classes; positions do not depend on them." : null),
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

// Pair weights.

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
  section("pairs", "Pair weights", "Pair weights",
    el("p", { class: "lead" }, `The heat-map shows the weight of each pair among ${count} training ${MANY}, by ${pairs.name}. `,
      classes ? `Rows and columns are sorted by class: bright blocks on the diagonal mean that ${MANY} of the same class have the largest weights as negatives of each other.`
        : `There are no classes, so similar ${MANY} are placed side by side.`),
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
    el("p", { class: "note" }, "Weight within the row, on a logarithmic scale."),
    share === null ? null : el("p", {}, el("strong", {}, percent(share)),
      ` of the weight is on pairs of the same class; by chance it would be ${percent(pairs.chance)}.`),
    el("p", {}, "The effective number of negatives of a row is ", el("strong", {}, number(pairs.effective_negatives)), ` of ${count - 1}.`));
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
    const text = row === column ? `the same ${ONE} twice: not a pair` : "weight " + number(weight);
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
