// The bank's entries, and the views.

function bank() {
  if (DATA.bank === null) {
    if (DATA.train) section("bank", "Bank", "What its memory does",
      el("p", {}, "This method has neither a bank nor a queue: there is nothing to look at."));
    return;
  }
  if (!DATA.bank) return;
  const found = DATA.bank;
  const what = found.name === "bank" ? "bank" : "queue";
  const shown = found.entries.length;
  const grid = el("div", { class: "entries", role: "listbox", "aria-label": `Entries of the ${what}, by use` });
  const detail = el("div", { id: "entry", "aria-live": "polite" });
  const orders = { "Most used first": (a, b) => b.uses - a.uses, "Least used first": (a, b) => a.uses - b.uses };
  const tools = el("div", { class: "tools" }, Object.entries(orders).map(([name, order], i) => el("button", {
    type: "button", "aria-pressed": String(i === 0),
    onclick: (event) => {
      for (const button of tools.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      fill(grid, found, [...found.entries].sort(order), detail);
    },
  }, name)));
  section("bank", "Bank", `What each entry of the ${what} does`,
    el("p", { class: "lead" }, `${whole(found.images)} training ${MANY}, each through two views as in pretraining, used `,
      `${whole(found.size - found.unused)} of ${whole(found.size)} entries`,
      found.size > shown ? `; the ${whole(shown)} most used are here, weighed among ${whole(found.scored)}. ` : ". ",
      found.chooses ? `Each ${ONE} chooses as its positive the entry that its key is nearest to. ` : `Each ${ONE} is counted at the entry that its key is nearest to. `,
      DATA.pictures ? "The picture on an entry is the image that is nearest to it." : null),
    tools, el("div", { class: "explorer" }, grid, detail));
  roving(grid, (item) => showEntry(grid, item, found, detail));
  fill(grid, found, found.entries, detail);
}

function fill(grid, found, entries, detail) {
  const sheet = DATA.train.sheet;
  grid.replaceChildren(...entries.map((entry, i) => {
    const button = el("button", {
      type: "button", role: "option", tabindex: i ? -1 : 0, class: entry.uses ? null : "unused",
      "aria-selected": "false", "aria-label": `Entry ${entry.entry}, used by ${several(entry.uses, ONE, MANY)}`,
    }, thumb(sheet, entry.picture, 40), String(entry.uses));
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
    el("div", {}, labels[image] < 0 ? (DATA.pictures ? "" : `${ONE} ${image}`) : className(labels[image])));
  const more = entry.uses - entry.chose.length;
  detail.replaceChildren(
    el("h3", { style: { "margin-top": "0" } }, `Entry ${entry.entry}`),
    el("p", { class: "note" }, `Used by ${several(entry.uses, ONE, MANY)}; the nearest query has cosine ${entry.cosine.toFixed(3)}.`),
    el("h3", {}, capital(MANY) + (found.chooses ? " that chose it as their positive" : " whose keys are nearest to it")),
    entry.chose.length ? el("div", { class: "pictures" }, entry.chose.map((image) => picture(image)))
      : el("p", { class: "note" }, `None of these ${MANY}.`),
    more > 0 ? el("p", { class: "note" }, `and ${whole(more)} more`) : "",
    el("h3", {}, "Queries that it repels most"),
    entry.repels.length ? "" : el("p", { class: "note" }, "None, or the method says nothing of a temperature."),
    el("div", { class: "pictures" }, entry.repels.map(([image, weight]) => picture(image,
      el("span", { class: "weight", style: { width: 100 * weight / most + "%" } }), el("div", {}, String(+weight.toPrecision(2)))))),
    el("p", { class: "note" }, "The number is the softmax probability of this entry for that query, as a negative."));
}

function views() {
  const found = DATA.views;
  if (!found) return;
  const sheetsOf = found.sheets.map(useSheet);
  const originals = found.originals && useSheet(found.originals);
  const size = sheetsOf.length > 2 ? 56 : 68;
  const one = (sheet, i, name) => el("figure", {}, thumb(sheet, i, size, `image ${i}, ${name}`), el("div", {}, name));
  section("views", "Views", "What the encoder saw",
    el("p", { class: "lead" }, `The first images of step ${whole(found.step)} in the very views that this step trained on`,
      originals ? "." : "; the host cropped them, so there is no original to show."),
    el("ul", { class: "views" }, Array.from({ length: sheetsOf[0].count }, (_, i) => el("li", {},
      originals ? one(originals, i, "image") : null, sheetsOf.map((sheet, view) => one(sheet, i, `view ${view + 1}`))))));
}
