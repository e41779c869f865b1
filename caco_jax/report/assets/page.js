// The sections of plain text and tables, and the order of all.

function opening() {
  const { run } = DATA;
  const facts = factsOf(run);
  document.getElementById("content").append(el("h1", {}, run.name),
    el("p", { class: "lead" }, `${run.description}. On ${run.images}.`),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}

function factsOf(run) {
  const { summary, versions } = run;
  const knn = DATA.curves.find((curve) => curve.name === "knn");
  const last = knn && knn.series[0].filter((value) => value !== null).at(-1);
  const facts = [["steps done", whole(run.step)]];
  if (last !== undefined && last !== null) facts.unshift(["kNN, last measured", percent(last)]);
  if (summary.epochs) facts.push(["epochs", whole(summary.epochs)], ["training time", duration(summary.pretrain_seconds)],
    [`${MANY} a second`, whole(summary.images_per_second)], ["memory, at most", whole(summary.peak_memory_bytes / 1e6) + " MB"]);
  for (const [player, count] of Object.entries(run.numbers)) facts.push([`parameters, ${player}`, whole(count)]);
  if (run.devices.length) facts.push(["devices", several(run.devices.length, run.devices[0], "× " + run.devices[0])]);
  if (versions.jax) facts.push(["versions", `caco_jax ${versions.caco_jax}, JAX ${versions.jax}`]);
  return facts;
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "under 1 s";
  const [size, unit] = parts[first];
  const text = `${Math.floor(seconds / size)} ${unit}`;
  if (first === parts.length - 1) return text;
  const rest = Math.floor((seconds % size) / parts[first + 1][0]);
  return rest ? `${text} ${rest} ${parts[first + 1][1]}` : text;
}

const LIGHTS = { good: ["✓", "good"], watch: ["!", "watch"], act: ["×", "act"] };

function health() {
  const counts = Object.keys(LIGHTS).map((light) => [light, DATA.verdicts.filter((v) => v.light === light).length]);
  const words = counts.filter(([, count]) => count).map(([light, count]) => `${count} ${LIGHTS[light][1]}`);
  const todo = DATA.missing.filter((row) => row.command.includes("experiments.health"));
  const worst = ["act", "watch", "good"];
  const sorted = [...DATA.verdicts].sort((a, b) => worst.indexOf(a.light) - worst.indexOf(b.light));
  section("health", "Health", "Is it well?",
    el("p", { class: "lead" }, `${several(DATA.verdicts.length, "check", "checks")}: ${words.join(", ")}.`),
    el("ul", { class: "lights" }, sorted.map((v) => el("li", {},
      el("span", { class: "dot " + v.light, role: "img", "aria-label": LIGHTS[v.light][1] }, LIGHTS[v.light][0]),
      el("span", {}, v.what), el("span", { class: "value" }, v.value),
      v.advice ? el("span", { class: "advice" }, v.advice) : null,
      el("span", { class: "more", title: v.limits }, v.light === "good" ? v.meaning : `${v.meaning}; ${v.limits}`)))),
    missing(todo));
}

function missing(rows) {
  if (!rows.length) return null;
  return el("ul", { class: "todo" }, rows.map((row) => el("li", {}, `Not measured yet: ${row.wants}. Run`, el("code", {}, row.command))));
}

function evaluations() {
  const todo = DATA.missing.filter((row) => !row.command.includes("experiments.health"));
  const rows = DATA.measures.flatMap((of, run) => of.map((row) => ({ ...row, run })));
  const keys = [...new Set(rows.map((row) => `${row.what}\n${row.images ?? ""}`))];
  const sets = new Set(rows.map((row) => row.images).filter(Boolean));
  section("evaluations", "Evaluations", "What the features are worth",
    DATA.classes.length ? null : el("p", {}, `The ${MANY} have no labels: there is nothing to evaluate by.`),
    el("p", { class: "lead" }, rows.length ? `Of held-out ${MANY}, with the encoder frozen but where it says fine-tuned.` : "Nothing has been measured yet."),
    rows.length ? measureTable(rows, keys, sets.size > 1) : null,
    rows.filter((row) => row.by_class && row.run === 0).map(byClass), missing(todo));
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
  const notes = [severalSets && row.images ? `on ${row.images}` : "", stale ? `at step ${whole(row.step)}, the checkpoint is newer` : ""].filter(Boolean);
  return el("tr", {},
    el("th", { scope: "row", class: runs ? "wide" : null }, first || !runs ? row.what : "", notes.length ? el("div", { class: "note" }, notes.join("; ")) : null),
    runs ? el("td", { class: "who" }, el("span", { class: "run", style: { "--hue": hue(row.run) } }), DATA.runs[row.run]) : null,
    el("td", { class: "number" }, percent(row.value, 2)),
    el("td", { class: "plain wide" + (spread ? "" : " empty") }, spread ? `${percent(row.low)} to ${percent(row.high)}, ${row.interval}` : "–"),
    el("td", { class: "wide" }, bar));
}

function byClass(row) {
  const shares = Object.entries(row.by_class).filter(([, share]) => share !== null).sort((a, b) => a[1] - b[1]);
  return el("details", {}, el("summary", {}, `${row.what}: each class, the hardest first`),
    el("ul", { class: "bars" }, shares.map(([name, share]) => el("li", {}, el("span", { class: "name", title: name }, name),
      el("span", { class: "track" }, el("i", { style: { width: percent(share) } })), el("span", {}, percent(share))))));
}

function settings() {
  const rows = DATA.settings;
  const changed = rows.filter((row) => row.changed.includes(true) || row.differs)
    .sort((a, b) => b.differs - a.differs);
  const several = DATA.runs.length > 1;
  section("settings", "Settings", "How it was set up",
    el("p", { class: "lead" }, `${changed.length} of ${rows.length} settings are not the method's defaults` + (several ? " or differ between these runs; the latter come first." : ".")),
    settingTable(changed), el("details", {}, el("summary", {}, `All ${rows.length} settings`), settingTable(rows)),
    el("p", { class: "note", style: { "margin-top": "1.5rem" } }, "The run is in ", el("code", {}, DATA.run.path), "."));
}

function settingTable(rows) {
  const head = ["setting", ...DATA.runs.length > 1 ? DATA.runs : ["value"], "default", "meaning"];
  return el("div", { class: "scroll" }, el("table", { class: "settings" + (DATA.runs.length > 1 ? "" : " stack") },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", { class: row.changed.includes(true) ? "changed" : null },
      el("th", { scope: "row" }, el("code", {}, row.key)),
      row.values.map((value, run) => el("td", { class: row.changed[run] ? "now" : null }, el("code", {}, value ?? "–"),
        row.changed[run] ? el("span", { class: "unseen" }, " (not the default)") : null)),
      el("td", { class: "plain" }, el("code", {}, row.default ?? "–")), el("td", { class: "plain wide" }, row.doc))))));
}

function follow() {
  const links = [...document.querySelectorAll("#nav a")];
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    const here = links.find((link) => link.hash === "#" + entry.target.id);
    here.setAttribute("aria-current", "true");
    here.parentNode.scrollLeft = here.offsetLeft - here.parentNode.offsetLeft - 40;
  }), { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("section").forEach((node) => seen.observe(node));
}

opening();
if (!DATA.train) section("looks", "Looks", "There is nothing to see in this network",
  el("p", {}, "Its embeddings are not finite numbers: it diverged. Go back to an older checkpoint, or lower the learning rate and start over."));
if (DATA.train) useSheet(DATA.train.sheet);
health();
curves();
evaluations();
map();
bank();
heatMap();
views();
settings();
themes();
follow();
