// The bank's entries, and the augmented views.

function bank() {
  if (DATA.bank === null) {
    if (DATA.train) section("bank", "Bank", "Bank",
      el("p", {}, "This method has neither a bank nor a queue."));
    return;
  }
  if (!DATA.bank) return;
  const found = DATA.bank;
  const what = found.name === "bank" ? "bank" : "queue";
  const grid = el("div", { class: "entries", role: "listbox", "aria-label": `Entries of the ${what}, by how often they are chosen` });
  const detail = el("div", { id: "entry", "aria-live": "polite" });
  const state = { least: false, never: false };
  const update = () => fill(grid, found, state, detail);
  section("bank", capital(what), capital(what), bankUse(), choices(found, what),
    entryTools(found, state, update), el("div", { class: "explorer" }, grid, detail));
  roving(grid, (item) => showEntry(grid, item, found, detail));
  update();
}

// Bank use is this one figure; what a few images choose is another.

function bankUse() {
  const last = DATA.curves.find((curve) => curve.name === "bank_used_recently")?.series[0].findLast((value) => value !== null);
  if (last === undefined || last === null) return null;
  return el("p", { class: "lead" }, "Bank use is the share of entries that were the positive of at least one query in the last ",
    `${whole(DATA.bank.recent_steps)} training steps. In the last epoch it was `, el("strong", {}, percent(last)), " on average.");
}

function choices(found, what) {
  const used = found.size - found.unused;
  const few = used < found.even / 2;
  return el("p", { class: "lead" }, `The entries below are counted by a sample: ${whole(found.images)} training ${MANY}, each through two views as in pretraining. `,
    `Each ${ONE} chooses the entry that its key is nearest to`, found.chooses ? ", which is its positive. " : ". ",
    "The sample chooses ", el("strong", { class: few ? "few" : null }, `${whole(used)} of ${whole(found.size)} entries (${percent(used / found.size, 0)})`),
    `; if all entries were equally likely, it would choose about ${whole(found.even)}. `,
    few ? "Fewer than half of that means that a few entries get most of the queries. " : null,
    found.size > found.entries.length ? `The page has the ${whole(found.entries.length)} most chosen entries; softmax probabilities are computed over ${whole(found.scored)}. ` : null,
    DATA.pictures ? `Each entry of the ${what} is shown by the image whose query is nearest to it.` : null);
}

function entryTools(found, state, update) {
  const never = found.entries.filter((entry) => !entry.uses).length;
  const order = (name, least) => el("button", { type: "button", "aria-pressed": String(!least), onclick: (event) => {
    state.least = least;
    for (const button of event.currentTarget.parentNode.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === event.currentTarget));
    update();
  } }, name);
  return el("div", { class: "tools" }, order("Most chosen first", false), order("Least chosen first", true),
    never ? el("label", {}, el("input", { type: "checkbox", onchange: (event) => { state.never = event.currentTarget.checked; update(); } }),
      `Show the ${several(never, "entry", "entries")} that no ${ONE} of the sample chooses`) : null);
}

function fill(grid, found, state, detail) {
  const sign = state.least ? 1 : -1;
  const entries = found.entries.filter((entry) => entry.uses || state.never).sort((a, b) => sign * (a.uses - b.uses));
  grid.replaceChildren(...entries.map((entry, i) => {
    const button = el("button", {
      type: "button", role: "option", tabindex: i ? -1 : 0, class: entry.uses ? null : "unused",
      "aria-selected": "false", "aria-label": `Entry ${entry.entry}, chosen by ${several(entry.uses, ONE, MANY)}`,
    }, thumb(DATA.train.sheet, entry.picture, 40), `${entry.uses}×`);
    button.entry = entry;
    return button;
  }));
  if (entries.length) showEntry(grid, grid.children[0], found, detail);
}

function showEntry(grid, item, found, detail) {
  for (const other of grid.children) if (other.tabIndex === 0 || other.ariaSelected === "true") {
    other.tabIndex = -1;
    other.setAttribute("aria-selected", "false");
  }
  item.tabIndex = 0;
  item.setAttribute("aria-selected", "true");
  const entry = item.entry;
  const most = entry.repels.length ? entry.repels[0][1] : 1;
  const labels = DATA.train.labels;
  const picture = (image, ...more) => el("figure", {},
    thumb(DATA.train.sheet, image, 56, `image ${image} ${ofClass(labels[image])}`), ...more,
    el("div", { title: ofClass(labels[image]) }, labels[image] < 0 ? (DATA.pictures ? "" : `${ONE} ${image}`) : ofClass(labels[image])));
  const more = entry.uses - entry.chose.length;
  detail.replaceChildren(
    el("h3", { style: { "margin-top": "0" } }, `Entry ${entry.entry}`),
    el("p", { class: "note" }, `It is chosen by ${several(entry.uses, ONE, MANY)} of the sample. The nearest query has cosine ${entry.cosine.toFixed(3)}.`),
    el("h3", {}, capital(MANY) + (found.chooses ? " that choose it as their positive" : " that choose it")),
    entry.chose.length ? el("div", { class: "pictures" }, entry.chose.map((image) => picture(image)))
      : el("p", { class: "note" }, `No ${ONE} of the sample chooses it.`),
    more > 0 ? el("p", { class: "note" }, `There are ${whole(more)} more.`) : "",
    el("h3", {}, "Queries that it repels most"),
    entry.repels.length ? "" : el("p", { class: "note" }, "There are none, or the method has no temperature."),
    el("div", { class: "pictures" }, entry.repels.map(([image, weight]) => picture(image,
      el("span", { class: "weight", style: { width: 56 * weight / most + "px" } }), el("div", {}, "p = " + probability(weight))))),
    el("p", { class: "note", style: { "margin-top": ".75rem" } }, "p is the softmax probability of this entry for the query, as a negative."));
}

const probability = (value) => value < 0.001 ? value.toExponential(0) : value.toPrecision(2);

function views() {
  const found = DATA.views;
  if (!found) return;
  const sheetsOf = found.sheets.map(useSheet);
  const originals = found.originals && useSheet(found.originals);
  const size = sheetsOf.length > 2 ? 56 : 68;
  const one = (sheet, i, name) => el("figure", {}, thumb(sheet, i, size, `image ${i}, ${name}`), el("div", {}, name));
  section("views", "Augmented views", "Augmented views",
    el("p", { class: "lead" }, `These are the first images of step ${whole(found.step)}, with the same random augmentations as in that step.`,
      originals ? null : " They were cropped while they were loaded, so the whole images are not shown."),
    el("ul", { class: "views" }, Array.from({ length: sheetsOf[0].count }, (_, i) => el("li", {},
      originals ? one(originals, i, "image") : null, sheetsOf.map((sheet, view) => one(sheet, i, `view ${view + 1}`))))));
}
