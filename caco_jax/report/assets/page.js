// The head of the page, the diagnostics, the navigation, and the order of the sections.

function opening() {
  const { run } = DATA;
  const facts = factsOf(run);
  document.getElementById("content").append(el("h1", {}, run.name),
    el("p", { class: "lead" }, `${run.description}. Data set: ${run.images}.`),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}

function factsOf(run) {
  const { summary, versions } = run;
  const knn = DATA.curves.find((curve) => curve.name === "knn");
  const last = knn && knn.series[0].filter((value) => value !== null).at(-1);
  const facts = [["steps", whole(run.step)]];
  if (last !== undefined && last !== null) facts.unshift(["kNN accuracy, last", percent(last)]);
  if (summary.epochs) facts.push(["epochs", whole(summary.epochs)], ["training time", duration(summary.pretrain_seconds)],
    [`${MANY} per second`, whole(summary.images_per_second)], ["peak memory", whole(summary.peak_memory_bytes / 1e6) + " MB"]);
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

function diagnostics() {
  const counts = Object.keys(LIGHTS).map((light) => [light, DATA.verdicts.filter((v) => v.light === light).length]);
  const words = counts.filter(([, count]) => count).map(([light, count]) => `${count} ${LIGHTS[light][1]}`);
  const worst = ["act", "watch", "good"];
  const sorted = [...DATA.verdicts].sort((a, b) => worst.indexOf(a.light) - worst.indexOf(b.light));
  section("diagnostics", "Diagnostics", "Diagnostics",
    el("p", { class: "lead" }, `${several(DATA.verdicts.length, "check", "checks")}: ${words.join(", ")}.`),
    el("ul", { class: "lights" }, sorted.map((v) => el("li", {},
      el("span", { class: "dot " + v.light, role: "img", "aria-label": LIGHTS[v.light][1] }, LIGHTS[v.light][0]),
      el("span", {}, v.what), el("span", { class: "value" }, v.value),
      v.advice ? el("span", { class: "advice" }, v.advice) : null,
      el("span", { class: "more" }, `${v.meaning} ${capital(v.limits)}.`)))),
    missing("diagnostics"));
}

function missing(place) {
  const rows = DATA.missing.filter((row) => row.section === place);
  if (!rows.length) return null;
  return el("ul", { class: "todo" }, rows.map((row) => el("li", {}, `${row.measures} has not been measured. Run:`, command(row.command))));
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

// Arrows at the ends of the navigation, where there is more of it.

function showMore() {
  const nav = document.getElementById("nav");
  const mark = () => {
    const right = nav.scrollWidth - nav.clientWidth - nav.scrollLeft;
    nav.parentNode.dataset.more = [nav.scrollLeft > 4 ? "left" : "", right > 4 ? "right" : ""].join(" ");
  };
  nav.addEventListener("scroll", mark);
  new ResizeObserver(mark).observe(nav);
  mark();
}

opening();
if (!DATA.train) section("diverged", "Embeddings", "The embeddings are not finite",
  el("p", {}, "The embeddings of this network are not finite numbers: training diverged. Go back to an older checkpoint, or lower the learning rate and start again."));
if (DATA.train) useSheet(DATA.train.sheet);
diagnostics();
curves();
evaluation();
map();
bank();
heatMap();
views();
settings();
themes();
follow();
showMore();
