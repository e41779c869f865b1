// The training curves, by uPlot: charts in groups, with one set of tools for all.

const OBJECTIVE = "Objective and accuracy";
const OPTIMISATION = "Learning rates and gradients";
const OF_BANK = "Bank";
const OTHER = "Other metrics";
// Name: [group, title, unit]. The order here is that of the page.
const METRICS = {
  loss: [OBJECTIVE, "Loss", "nats"],
  knn: [OBJECTIVE, `kNN accuracy, held-out ${MANY}`, "%"],
  cross_entropy: [OBJECTIVE, "Cross entropy over the candidates", "nats"],
  positive_probability: [OBJECTIVE, "Probability of the positive", "%"],
  embedding_std: [OBJECTIVE, "Spread of the embeddings", "1: sphere, 0: one point"],
  online_linear: [OBJECTIVE, "Online linear head, accuracy", "%"],
  online_effective_rank: [OBJECTIVE, "Effective rank of the features", "directions"],
  clean_loss: [OBJECTIVE, "Loss on clean images", "nats"],
  adversarial_loss: [OBJECTIVE, "Loss on adversarial images", "nats"],
  bank_used_recently: [OF_BANK, "Bank use: entries chosen in the last 100 steps", "%"],
  bank_used_ever: [OF_BANK, "Entries chosen at least once since the start", "%"],
  bank_mass: [OF_BANK, "Softmax mass on the bank", "%"],
  batch_probability: [OF_BANK, "Softmax mass on the batch's keys", "%"],
  bank_cosine: [OF_BANK, "Cosine of a query with its nearest entry", "mean"],
  bank_chance_cosine: [OF_BANK, "Cosine with the nearest of as many random directions", "mean"],
  bank_turn_degrees: [OF_BANK, "Turn of a row in one step, by momentum", "degrees, median"],
  bank_row_length: [OF_BANK, "Length of the rows", "median"],
  bank_directions: [OF_BANK, "Effective directions of the rows", "directions"],
  bank_effective_rows: [OF_BANK, "Effective number of entries", "entries"],
  bank_dead_share: [OF_BANK, "Dead entries (almost no softmax mass)", "%"],
};
const PER_PLAYER = [["learning_rate_", "Learning rate"], ["gradient_norm_", "Gradient norm"]];
const CHART_HEIGHT = 230;

function metricOf(name) {
  if (Object.hasOwn(METRICS, name)) return METRICS[name];
  const found = PER_PLAYER.find(([start]) => name.startsWith(start));
  if (found) return [OPTIMISATION, `${found[1]}, ${name.slice(found[0].length)}`, found[1] === "Gradient norm" ? "mean" : ""];
  return [name.startsWith("bank_") ? OF_BANK : OTHER, capital(name.replaceAll("_", " ")), ""];
}

const isShare = (curve) => metricOf(curve.name)[2] === "%";
const valueText = (curve) => isShare(curve) ? (value) => value === null || value === undefined ? "–" : percent(value) : number;
const tickText = (curve) => (value) => value === null ? "" : isShare(curve) ? +(100 * value).toFixed(2) + "%"
  : Math.abs(value) >= 1000 ? whole(value) : value && Math.abs(value) < 0.001 ? (+value.toPrecision(2)).toExponential() : String(+value.toPrecision(3));

function curves() {
  if (!DATA.curves.length) return;
  const tools = { weight: 0, log: false };
  const order = [...Object.keys(METRICS), ...PER_PLAYER.map(([start]) => start)];
  const place = ({ name }) => {
    const at = order.findIndex((known) => known === name || (known.endsWith("_") && name.startsWith(known)));
    return (at < 0 ? order.length : at) + (name.endsWith("encoder") ? 0 : 0.5);
  };
  const sorted = [...DATA.curves].sort((a, b) => place(a) - place(b));
  const node = section("curves", "Training curves", "Training curves",
    el("p", { class: "lead" }, startUpInWords(),
      el("span", { class: "by-pointer" }, "Move the pointer over a chart to read its values, drag to zoom, and double-click to reset the zoom. ",
        "With the keyboard, arrow keys read values, + and − zoom, and Escape resets the zoom."),
      el("span", { class: "by-touch" }, "Tap a chart to read its values.")),
    curveTools(tools, sorted, () => charts.forEach((chart) => chart.build())));
  const groups = [OBJECTIVE, OPTIMISATION, OF_BANK, OTHER].map((name) => [name, sorted.filter((curve) => metricOf(curve.name)[0] === name)]);
  const narrow = matchMedia("(max-width: 760px)").matches;
  const charts = groups.filter(([, members]) => members.length).flatMap(([name, members], i) => {
    const grid = el("div", { class: "charts" });
    node.append(el("details", { open: i === 0 || !narrow },
      el("summary", {}, el("h3", {}, name), ` ${several(members.length, "curve", "curves")}`), grid));
    const made = members.map((curve) => chart(grid, curve, tools));
    new ResizeObserver(() => made.forEach((of) => of.fit())).observe(grid);
    return made;
  });
  redraws.push(() => charts.forEach((of) => of.plot.redraw(false)));
}

function startUpInWords() {
  if (!DATA.run.start_up) return "";
  const { steps, epochs, description } = DATA.run.start_up;
  const length = several(steps, "step", "steps") + (Number.isInteger(epochs) ? ` (${several(epochs, "epoch", "epochs")})` : "");
  return `Before epoch 1 there was a start-up of ${length}: ${description}. The shaded band marks it; its metrics are not recorded. `;
}

function curveTools(tools, sorted, changed) {
  const shown = el("output", {}, "off");
  const smoothing = el("input", {
    type: "range", min: 0, max: 0.95, step: 0.05, value: 0,
    oninput: (event) => {
      tools.weight = +event.currentTarget.value;
      shown.textContent = tools.weight ? tools.weight.toFixed(2) : "off";
      changed();
    },
  });
  const log = el("input", { type: "checkbox", onchange: (event) => { tools.log = event.currentTarget.checked; changed(); } });
  return el("div", { class: "tools" },
    el("label", {}, "Smoothing", smoothing, shown), el("label", {}, log, "Logarithmic y-axis"),
    el("button", { type: "button", onclick: () => save(`${fileName("curves")}.csv`, new Blob([csv(sorted)], { type: "text/csv" })) }, "Save all as CSV"));
}

// The exponential moving average of what is there, its start corrected as Adam's is.

function smoothed(values, weight) {
  let [sum, mass] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

function chart(parent, curve, tools) {
  const [, title, unit] = metricOf(curve.name);
  const holder = el("div", {
    tabindex: 0, role: "group", "data-metric": curve.name,
    "aria-label": `Chart over epochs: ${title}. Arrow keys read values, plus and minus zoom.`,
  });
  const made = {
    plot: null,
    build() {
      const zoomed = made.plot && { ...made.plot.scales.x };
      if (made.plot) made.plot.destroy();
      made.plot = plotOf(curve, tools, holder);
      if (zoomed) made.plot.setScale("x", zoomed);
    },
    fit() { made.plot.setSize({ width: holder.clientWidth || 300, height: CHART_HEIGHT }); },
  };
  const button = (kind, action) => el("button", { type: "button", "aria-label": `Save ${title} as ${kind}`, onclick: action }, kind);
  parent.append(el("figure", { class: "card" },
    el("figcaption", {}, title, el("span", { class: "unit" }, unit)), holder,
    el("div", { class: "export" }, button("PNG", () => savePicture(made.plot, curve, title)),
      button("CSV", () => save(`${fileName(curve.name)}.csv`, new Blob([csv([curve])], { type: "text/csv" }))))));
  holder.addEventListener("keydown", (event) => steer(made.plot, curve, title, event));
  made.build();
  return made;
}

function plotOf(curve, tools, holder) {
  const log = tools.log && curve.series.flat().every((value) => value === null || value > 0);
  const axis = {
    stroke: () => css("--muted"), grid: { stroke: () => css("--grid"), width: 1 },
    ticks: { show: false }, font: "12px system-ui, sans-serif",
  };
  const averaged = tools.weight > 0;
  const lines = averaged ? curve.series.map((values) => smoothed(values, tools.weight)) : curve.series;
  const level = curve.chance === null ? [] : [curve.x.map(() => curve.chance)];
  const plot = new uPlot({
    width: holder.clientWidth || 300, height: CHART_HEIGHT,
    cursor: { sync: { key: "curves" }, points: { size: 8 } },
    scales: { x: { time: false, range: rangeOfEpochs(curve) }, y: { distr: log ? 3 : 1, range: rangeOfValues(curve, log) } },
    series: [{ label: "epoch", value: (_, value) => whole(value ?? curve.x.at(-1)) }, ...seriesOf(curve, averaged)],
    axes: [
      { ...axis, size: 30, label: "epoch", labelSize: 20, labelFont: "12px system-ui, sans-serif", values: (_, ticks) => ticks.map((tick) => tick < 0 || tick % 1 ? "" : whole(tick)) },
      { ...axis, size: 58, values: (_, ticks) => ticks.map(tickText(curve)) },
    ],
    hooks: { drawAxes: [markStartUp] },
  }, [curve.x, ...lines, ...level, ...averaged ? curve.series : []], holder);
  holder.querySelector("canvas").setAttribute("aria-hidden", "true");
  return plot;
}

function seriesOf(curve, averaged) {
  const text = valueText(curve);
  // What was measured, even where an average is drawn.
  const value = (values) => (plot, at, line, index) => text(index === null ? values.findLast((of) => of !== null) : values[index]);
  const line = (run) => {
    const values = curve.series[run];
    const sparse = values.filter((of) => of !== null).length < values.length / 2;
    return {
      label: DATA.runs[run], stroke: () => css("--c" + run % HUES), width: 2, spanGaps: true,
      dash: run >= HUES ? [6, 3] : undefined, points: { show: sparse || values.length < 3, size: 6 }, value: value(values),
    };
  };
  const lines = curve.series.map((_, run) => line(run));
  if (curve.chance !== null) lines.push({
    label: "chance", stroke: () => css("--muted"), width: 1, dash: [4, 4],
    points: { show: false }, value: () => text(curve.chance),
  });
  const faint = (_, run) => ({ ...line(run), class: "faint", width: 1, alpha: 0.35, points: { show: false } });
  return averaged ? [...lines, ...curve.series.map(faint)] : lines;
}

// Room for the mark of a start-up, which is before the first epoch.

const rangeOfEpochs = (curve) => (plot, low, high) => {
  const [first, last] = [curve.x[0], curve.x.at(-1)];
  if (low > first) return [low, high];
  if (DATA.run.start_up) return [-0.08 * Math.max(high, 1), high];
  return low === high ? [low - 1, high + 1] : [low, Math.min(high, last)];
};

const oneDigit = (value, round) => {
  const unit = 10 ** Math.floor(Math.log10(value));
  return round(value / unit) * unit;
};

const rangeOfValues = (curve, log) => (plot, low, high) => {
  if (low === null) return [0, 1];
  const [from, to] = !log ? uPlot.rangeNum(low, high, 0.1, true)
    : low < high ? [oneDigit(low, Math.floor), oneDigit(high, Math.ceil)] : [low / 2, high * 2];
  return isShare(curve) ? [Math.max(0, from), Math.min(1, to)] : [from, to];
};

function markStartUp(plot) {
  const { min } = plot.scales.x;
  if (!DATA.run.start_up || min > 0) return;
  const { ctx, bbox } = plot;
  const right = plot.valToPos(0, "x", true);
  ctx.save();
  ctx.fillStyle = css("--shade");
  ctx.fillRect(bbox.left, bbox.top, right - bbox.left, bbox.height);
  ctx.fillStyle = css("--muted");
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.translate((bbox.left + right) / 2, bbox.top + bbox.height / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText("start-up", 0, 0);
  ctx.restore();
}

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

// Files.

const fileName = (what) => `${DATA.runs.join("-")}-${what}`.replace(/[^\w.-]+/g, "_");

function save(name, blob) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// A row an epoch, a column a curve of a run.

function csv(some) {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const heads = some.flatMap(({ name }) => DATA.runs.map((run) => quoted(DATA.runs.length > 1 ? `${run}: ${name}` : name)));
  const rows = some[0].x.map((epoch, i) => [epoch, ...some.flatMap(({ series }) => series.map((values) => values[i] ?? ""))]);
  return [["epoch", ...heads], ...rows].map((row) => row.join(",") + "\n").join("");
}

function savePicture(plot, curve, title) {
  const chart = plot.ctx.canvas;
  const ratio = devicePixelRatio || 1;
  const names = [...DATA.runs.map((name, run) => [name, css("--c" + run % HUES)]), ...curve.chance === null ? [] : [["chance", css("--muted")]]];
  const [top, line] = [34 * ratio, 20 * ratio];
  const canvas = el("canvas", { width: chart.width, height: top + chart.height + line * names.length + 8 * ratio });
  const context = canvas.getContext("2d");
  context.fillStyle = css("--card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(chart, 0, top);
  context.textBaseline = "middle";
  context.fillStyle = css("--ink");
  context.font = `600 ${15 * ratio}px system-ui, sans-serif`;
  context.fillText(title, 12 * ratio, 18 * ratio);
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  names.forEach(([name, colour], i) => {
    const y = top + chart.height + line * (i + 0.5);
    context.fillStyle = colour;
    context.fillRect(12 * ratio, y - ratio, 16 * ratio, 2 * ratio);
    context.fillStyle = css("--ink");
    context.fillText(name, 36 * ratio, y);
  });
  canvas.toBlob((blob) => save(`${fileName(curve.name)}.png`, blob));
}
