// Evaluation and settings.

function evaluation() {
  const rows = DATA.measures.flatMap((of, run) => of.map((row) => ({ ...row, run })));
  const keys = [...new Set(rows.map((row) => `${row.what}\n${row.images ?? ""}`))];
  const sets = new Set(rows.map((row) => row.images).filter(Boolean));
  const demos = DATA.demos.map((demo, run) => demo && demoTable(demo, run)).filter(Boolean);
  section("evaluation", "Evaluation", "Evaluation",
    DATA.classes.length ? null : el("p", {}, `The ${MANY} have no labels, so there is no accuracy to measure.`),
    el("p", { class: "lead" }, rows.length ? `The accuracies are on held-out ${MANY}. The encoder is frozen, except where a row says fine-tuned.`
      : demos.length ? null : "No evaluation has been run yet."),
    rows.length ? measureTable(rows, keys, sets.size > 1) : null,
    rows.filter((row) => row.by_class && row.run === 0).map(byClass), demos.flat(), missing("evaluation"));
}

function measureTable(rows, keys, severalSets) {
  const ends = rows.flatMap((row) => [row.low ?? row.value, row.high ?? row.value]);
  const low = Math.max(0, Math.floor(10 * Math.min(...ends)) / 10);
  const high = Math.min(1, Math.ceil(10 * Math.max(...ends)) / 10);
  const runs = DATA.runs.length > 1;
  const head = ["measure", runs ? "run" : null, "value", "interval", `${percent(low, 0)} to ${percent(high, 0)}`];
  const body = keys.flatMap((key) => rows.filter((row) => `${row.what}\n${row.images ?? ""}` === key).map((row, i) =>
    measureRow(row, i === 0, { low, high, runs, severalSets })));
  return el("div", { class: "scroll" }, el("table", { class: "stack" },
    el("thead", {}, el("tr", {}, head.filter(Boolean).map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, body)));
}

function measureRow(row, first, { low, high, runs, severalSets }) {
  const at = (value) => 100 * (Math.max(low, Math.min(high, value)) - low) / (high - low || 1) + "%";
  const stale = row.run === 0 && row.step !== null && row.step !== DATA.run.step;
  const spread = row.low !== null;
  const bar = el("span", { class: "range", "aria-hidden": "true", style: { "--hue": hue(row.run) } },
    spread ? el("i", { style: { left: at(row.low), right: `calc(100% - ${at(row.high)})` } }) : null, el("b", { style: { left: at(row.value) } }));
  // The table's head, which has the scale, is out of sight on a phone.
  const scale = el("span", { class: "ends only-narrow", "aria-hidden": "true" }, el("span", {}, percent(low, 0)), el("span", {}, percent(high, 0)));
  const notes = [severalSets && row.images ? `on ${row.images}` : "", stale ? `measured at step ${whole(row.step)}; the newest checkpoint is of step ${whole(DATA.run.step)}` : ""].filter(Boolean);
  return el("tr", {},
    el("th", { scope: "row", class: runs ? "wide" : null }, first || !runs ? row.what : "", notes.length ? el("div", { class: "note" }, notes.join("; ")) : null),
    runs ? el("td", { class: "who" }, el("span", { class: "run", style: { "--hue": hue(row.run) } }), DATA.runs[row.run]) : null,
    el("td", { class: "number" }, percent(row.value, 2)),
    el("td", { class: "plain wide" + (spread ? "" : " empty") }, spread ? `${percent(row.low)} to ${percent(row.high)}, ${row.interval}` : "–"),
    el("td", { class: "wide" }, bar, scale));
}

function byClass(row) {
  const shares = Object.entries(row.by_class).filter(([, share]) => share !== null).sort((a, b) => a[1] - b[1]);
  return el("details", {}, el("summary", {}, `${row.what}: accuracy of each class, lowest first`),
    el("ul", { class: "bars" }, shares.map(([name, share]) => el("li", {}, el("span", { class: "name", title: name }, name),
      el("span", { class: "track" }, el("i", { style: { width: percent(share) } })), el("span", {}, percent(share))))));
}

// Three kinds of features by three measures, as `caco demo` prints them.

function demoTable({ columns, rows }, run) {
  const cell = ([value, deviation]) => el("td", { class: "number" }, percent(value), deviation === null ? null : el("span", { class: "deviation" }, ` ± ${percent(deviation)}`));
  return [el("h3", {}, "Demo" + (DATA.runs.length > 1 ? `: ${DATA.runs[run]}` : "")),
    el("p", { class: "note" }, "These are accuracies on held-out images; ± is the standard deviation over draws of the labelled images."),
    el("div", { class: "scroll" }, el("table", { class: "demo" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "features"), columns.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.name), row.cells.map(cell))))))];
}

function settings() {
  const rows = DATA.settings;
  const changed = rows.filter((row) => row.changed.includes(true) || row.differs)
    .sort((a, b) => b.differs - a.differs);
  const runs = DATA.runs.length > 1;
  const count = el("span", { role: "status", class: "note" });
  const every = settingTable(rows);
  const folded = el("details", {}, el("summary", {}, `All ${rows.length} settings`), every);
  const filter = el("input", { type: "search", placeholder: "name, value or meaning", oninput: (event) => {
    const wanted = event.currentTarget.value.trim().toLowerCase();
    const shown = [...every.querySelectorAll("tbody tr")].filter((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      return !row.hidden;
    });
    if (wanted) folded.open = true;
    count.textContent = wanted ? `${several(shown.length, "setting contains", "settings contain")} this text.` : "";
  } });
  section("settings", "Settings", "Settings",
    el("p", { class: "lead" }, `${changed.length} of ${rows.length} settings are not the method's defaults` + (runs ? " or differ between these runs; the latter come first." : ".")),
    settingTable(changed),
    el("div", { class: "tools", style: { "margin-top": "1.5rem" } }, el("label", { class: "filter" }, "Filter all settings", filter), count), folded,
    el("p", { class: "note", style: { "margin-top": "1.5rem" } }, "The run's directory is ", el("code", {}, DATA.run.path), "."));
}

function settingTable(rows) {
  const runs = DATA.runs.length > 1;
  const head = ["setting", ...runs ? DATA.runs : ["value"], "default", "meaning"];
  const value = (row) => (text, run) => el("td", { class: "given" + (row.changed[run] ? " now" : "") + (run && !row.differs ? " same" : ""), "data-label": !runs ? null : row.differs ? DATA.runs[run] : "all runs" },
    el("code", {}, text ?? "–"), row.changed[run] ? el("span", { class: "unseen" }, " (not the default)") : null);
  return el("div", { class: "scroll" }, el("table", { class: "settings stack" + (runs ? " beside" : "") },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", { class: row.changed.includes(true) ? "changed" : null },
      el("th", { scope: "row" }, el("code", {}, row.key)), row.values.map(value(row)),
      el("td", { class: "plain given", "data-label": "default" }, el("code", {}, row.default ?? "–")), el("td", { class: "plain wide" }, row.doc))))));
}
