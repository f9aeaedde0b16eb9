"use strict";
/* Only with `farm serve`: stars, favorites, rejects, tags, notes, and blind comparisons. */

(() => {
  const { element } = farm;
  const STARS = 5;
  const mine = new Map(); // id -> { stars, favorite, reject, tags, note }
  const compared = new Set(); // pairs of ids that this rater has judged
  let rater = "";

  const pairKey = (a, b) => [a, b].sort().join(" ");
  const own = (row) => mine.get(farm.ids[row]) || {};

  async function recallVotes() {
    const told = await farm.get(`api/mine?rater=${encodeURIComponent(rater)}`);
    mine.clear();
    compared.clear();
    for (const [id, votes] of Object.entries(told.votes)) mine.set(id, votes);
    for (const [a, b] of told.pairs) compared.add(pairKey(a, b));
  }

  farm.startVotes = async () => {
    rater = farm.recall("farm-rater") || farm.served.rater;
    await recallVotes().catch(() => {});
    farm.redraw();
  };

  async function cast(votes) {
    try {
      await farm.post("api/votes", { rater, votes });
    } catch (error) {
      farm.say(`not kept: ${error.message}`);
      await recallVotes().catch(() => {});
      throw error;
    }
  }

  /** Vote on one image; shown at once, and taken back if the server refuses it. */
  async function vote(row, kind, value) {
    const id = farm.ids[row];
    mine.set(id, { ...own(row), [kind]: value });
    shownAgain(row);
    await cast([{ kind, id, value }]).catch(() => shownAgain(row));
  }

  function shownAgain(row) {
    farm.redrawRows([row]);
    farm.refreshZoom([row]);
  }

  // --- in the grid -----------------------------------------------------------------------------

  /** What people think of a row, in signs. */
  farm.marks = (row) => {
    const found = [];
    const stars = own(row).stars ?? farm.column("rating")?.value(row);
    if (stars) found.push(element("span", { class: "star" }, `★${farm.show({ kind: "number" }, stars)}`));
    if (own(row).favorite ?? farm.column("favorite")?.value(row)) found.push(element("span", { class: "heart" }, "♥"));
    if (own(row).reject ?? farm.column("rejected")?.value(row)) found.push(element("span", { class: "no" }, "✕"));
    return found;
  };

  /** Vote by a key; returns whether the key means one. */
  farm.voteByKey = (key, row) => {
    if (farm.status(row) !== "rendered") return false;
    const held = own(row);
    if (/^[1-5]$/.test(key)) vote(row, "stars", held.stars === Number(key) ? null : Number(key));
    else if (key === "h") vote(row, "favorite", !held.favorite);
    else if (key === "x") vote(row, "reject", !held.reject);
    else if (key === "g") focusOn("vote-tags");
    else if (key === "n") focusOn("vote-note");
    else return false;
    return true;
  };

  function focusOn(id) {
    if (!document.getElementById(id) && farm.focusedRows().length) farm.open(farm.focusedRows()[0]);
    document.getElementById(id)?.focus();
  }

  // --- beside an open image --------------------------------------------------------------------

  farm.voteBox = (row) => {
    if (!farm.served || farm.status(row) !== "rendered") return null;
    const held = own(row);
    const stars = Array.from({ length: STARS }, (_, i) => element("button", {
      type: "button", class: i < (held.stars || 0) ? "on star" : "star", id: `star-${i + 1}`,
      title: `${i + 1} of ${STARS} stars  (${i + 1})`, "aria-label": `${i + 1} stars`,
      "aria-pressed": String(held.stars === i + 1),
      onclick: () => vote(row, "stars", held.stars === i + 1 ? null : i + 1) }, "★"));
    const flag = (kind, sign, title, id) => element("button", {
      type: "button", id, title, "aria-label": title, class: `${id} ${held[kind] ? "on" : ""}`,
      "aria-pressed": String(Boolean(held[kind])), onclick: () => vote(row, kind, !held[kind]) }, sign);
    const tags = element("input", { type: "text", id: "vote-tags", placeholder: "tags, with commas",
      "aria-label": "Tags", list: "known-tags", autocomplete: "off", value: (held.tags || []).join(", "),
      onchange: (event) => {
        const list = [...new Set(event.target.value.split(",").map((tag) => tag.trim()).filter(Boolean))];
        vote(row, "tags", list.length ? list : null);
      } });
    const known = element("datalist", { id: "known-tags" },
      ...(farm.column("tags")?.levels || []).map((tag) => element("option", { value: tag })));
    const note = element("textarea", { id: "vote-note", rows: 2, placeholder: "note", "aria-label": "Note",
      maxlength: 10000, onchange: (event) => vote(row, "note", event.target.value.trim() || null) });
    note.value = held.note || "";
    for (const field of [tags, note]) {
      field.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
          field.blur();
          document.getElementById("zoom").focus();
          event.preventDefault();
        }
      });
    }
    return element("div", { class: "votes" },
      element("div", { class: "signs" }, element("span", { class: "stars", role: "group", "aria-label": "Stars" }, ...stars),
        flag("favorite", "♥", "Favourite  (h)", "vote-favorite"), flag("reject", "✕", "Reject  (x)", "vote-reject")),
      tags, known, note, raterBox());
  };

  function raterBox() {
    return element("label", { class: "rater" }, "as ", element("input", {
      type: "text", id: "rater", value: rater, "aria-label": "Your name", maxlength: 200,
      onkeydown: (event) => event.stopPropagation(),
      onchange: async (event) => {
        rater = event.target.value.trim() || farm.served.rater;
        farm.remember("farm-rater", rater);
        await recallVotes().catch(() => {});
        farm.redraw();
        const open = farm.state.open ? farm.rowOf.get(farm.state.open) : undefined;
        if (open !== undefined) farm.refreshZoom([open]);
      } }));
  }

  // --- blind comparisons -----------------------------------------------------------------------

  const dialog = document.getElementById("duel");
  let duel = null; // { axis, left, right, isJudged }
  let waits = []; // object addresses to give back

  const duelAxes = () => farm.meta.axes.map(farm.column);

  /** A pair of images that differ in one axis and in no other, the least often judged first. */
  function choosePair(axis) {
    const others = farm.meta.axes.filter((name) => name !== axis.name).map(farm.column);
    const groups = new Map();
    const kept = farm.kept();
    for (let row = 0; row < farm.rows; row += 1) {
      if (!kept[row] || farm.status(row) !== "rendered") continue;
      const key = others.map((column) => column.values[row]).join(" ");
      if (groups.has(key)) groups.get(key).push(row);
      else groups.set(key, [row]);
    }
    const able = [...groups.values()].filter((rows) => new Set(rows.map((row) => axis.values[row])).size > 1);
    const times = farm.column("comparisons");
    let best = null;
    for (let attempt = 0; able.length && attempt < 60; attempt += 1) {
      const rows = able[Math.floor(Math.random() * able.length)];
      const [a, b] = [0, 0].map(() => rows[Math.floor(Math.random() * rows.length)]);
      if (axis.values[a] === axis.values[b]) continue;
      const known = compared.has(pairKey(farm.ids[a], farm.ids[b])) ? 1000 : 0;
      const cost = known + (times?.number(a) || 0) + (times?.number(b) || 0);
      if (!best || cost < best.cost) best = { cost, a, b, isKnown: Boolean(known) };
    }
    return best;
  }

  farm.showDuel = () => {
    if (!dialog.open) dialog.showModal();
    const able = duelAxes().filter((column) => column.levels.length > 1);
    const wanted = duel?.axis.name || farm.state.x;
    next(able.find((column) => column.name === wanted) || able[0]);
  };

  function next(axis) {
    giveBack();
    const pair = axis ? choosePair(axis) : null;
    if (!pair) { duel = axis ? { axis } : null; drawNothing(axis); return; }
    const isSwapped = crypto.getRandomValues(new Uint8Array(1))[0] < 128;
    const [left, right] = isSwapped ? [pair.b, pair.a] : [pair.a, pair.b];
    duel = { axis, left, right, isJudged: false, isKnown: pair.isKnown };
    drawDuel();
  }

  function giveBack() {
    for (const address of waits) URL.revokeObjectURL(address);
    waits = [];
  }

  function axisChooser(axis) {
    const able = duelAxes().filter((column) => column.levels.length > 1);
    const select = element("select", { id: "duel-axis", onchange: (event) => next(farm.column(event.target.value)) },
      ...able.map((column) => element("option", { value: column.name, selected: column === axis }, column.label)));
    return element("label", { class: "chooser" }, element("span", {}, "they differ in"), select);
  }

  const closeButton = () => element("button", { type: "button", "aria-label": "Close  (Esc)", title: "Close  (Esc)",
                                                onclick: () => dialog.close() }, "✕");

  function drawNothing(axis) {
    dialog.replaceChildren(
      element("div", { class: "zoom-head" }, element("span", { class: "where" }, "Which is better?"),
              axis ? axisChooser(axis) : null, closeButton()),
      element("p", { class: "hint" }, "There are no two images that differ in one axis only."));
  }

  /** An image whose address, and so whose file name, tells nothing. */
  async function blindly(row, image) {
    const answer = await fetch(farm.imageAddress(row));
    const address = URL.createObjectURL(await answer.blob());
    waits.push(address);
    image.src = address;
  }

  /** Words for two images beside each other, and for two above each other, as on a phone. */
  const beside = (text) => element("span", { class: "beside-only" }, text);
  const stacked = (text) => element("span", { class: "stacked-only" }, text);

  function drawDuel() {
    const side = (row, key, text) => {
      const image = element("img", { alt: text, draggable: "false" });
      image.addEventListener("load", () => image.classList.toggle("enlarged", image.naturalWidth <= 300));
      blindly(row, image).catch(() => farm.say("an image cannot be loaded"));
      return element("button", { type: "button", class: "side-by", id: `duel-${key}`, "aria-label": text,
                                 onclick: () => judge(key) }, image);
    };
    const button = (key, ...text) => element("button", { type: "button", id: `duel-${key}-button`, onclick: () => judge(key) }, ...text);
    dialog.replaceChildren(
      element("div", { class: "zoom-head" }, element("span", { class: "where" }, "Which is better?"),
              axisChooser(duel.axis), closeButton()),
      element("div", { class: "sides-by" }, side(duel.left, "left", "left image"), side(duel.right, "right", "right image")),
      element("div", { class: "judge", id: "judge" }, button("left", beside("← this one"), stacked("upper one")),
              button("tie", beside("equal  ↓"), stacked("equal")),
              button("right", beside("this one →"), stacked("lower one"))));
    dialog.focus();
  }

  async function judge(key) {
    if (!duel || duel.isJudged) return;
    duel.isJudged = true;
    const { left, right, axis } = duel;
    const value = { left: "first", right: "second", tie: "tie" }[key];
    const picked = dialog.querySelector(`#duel-${key}`);
    picked?.classList.add("won");
    try {
      await cast([{ kind: "comparison", id: farm.ids[left], other: farm.ids[right], value, axis: axis.name }]);
    } catch {
      duel.isJudged = false;
      picked?.classList.remove("won");
      return;
    }
    compared.add(pairKey(farm.ids[left], farm.ids[right]));
    const ranking = await farm.get(`api/ranking?by=${encodeURIComponent(axis.name)}`).catch(() => null);
    reveal(ranking);
  }

  /** After the vote: what the two were, and how the settings stand. */
  function reveal(ranking) {
    const { left, right, axis } = duel;
    const box = document.getElementById("judge");
    const name = (row, where) => element("b", { class: "revealed" }, stacked(`${where}: `),
                                         `${axis.label}: ${axis.text(row)}`);
    box.replaceChildren(name(left, "upper"),
      element("button", { type: "button", class: "primary", id: "duel-next", onclick: () => next(axis) }, "Next  (Enter)"),
      name(right, "lower"));
    if (ranking?.standings.length) dialog.append(standings(ranking, axis));
    document.getElementById("duel-next").focus();
  }

  function standings(ranking, axis) {
    const low = Math.min(...ranking.standings.map((one) => one.low));
    const high = Math.max(...ranking.standings.map((one) => one.high));
    const percent = (value) => `${(100 * (value - low)) / Math.max(1e-9, high - low)}%`;
    const rows = ranking.standings.map((one) => {
      const range = element("i", { class: "interval" });
      range.style.left = percent(one.low);
      range.style.right = `calc(100% - ${percent(one.high)})`;
      const dot = element("i", { class: "point" });
      dot.style.left = percent(one.strength);
      return element("tr", {}, element("th", {}, farm.show(axis, one.value)),
        element("td", {}, `${farm.show({ kind: "number" }, one.wins)} of ${one.comparisons}`),
        element("td", { class: "line-cell" }, element("span", { class: "scale" }, range, dot)));
    });
    return element("div", { class: "standings" }, element("h3", {}, "So far"),
      element("table", {}, ...rows),
      element("p", { class: "hint" }, "Lines are 95 % intervals; where they overlap, nothing is decided."));
  }

  dialog.tabIndex = -1;
  dialog.addEventListener("close", () => { giveBack(); farm.redraw(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
    if (!key || !duel) return;
    judge(key);
    event.preventDefault();
  });
})();
