"use strict";
/* The bars above the grid, and the filters beside it. */

(() => {
  const { element } = farm;
  const $ = (id) => document.getElementById(id);
  const AXIS_NAMES = { x: "across", y: "down", sx: "groups across", sy: "groups down" };
  const GROUPS = { variable: "Variables", setting: "Settings", choice: "Choices", fact: "Facts" };
  const FEW = 7; // so many short values are tabs; more are a slider
  const SHORT = 60;
  const LISTED = 60; // so many values of a filter are shown at once

  // --- choosing axes ---------------------------------------------------------------------------

  /** Whether images can be told apart by a column: also those that have a value from the rest. */
  const varies = ({ axis }) => axis !== null
    && (axis.levels.length > 1 || (axis.levels.length === 1 && axis.values.includes(-1)));

  function options(chosen, columns, nothing) {
    const groups = new Map();
    for (const column of columns) {
      if (!groups.has(column.group)) {
        groups.set(column.group, element("optgroup", { label: GROUPS[column.group] }));
      }
      groups.get(column.group).append(element(
        "option", { value: column.name, selected: column.name === chosen }, column.label));
    }
    const first = element("option", { value: "", selected: !chosen }, nothing);
    return [first, ...Object.keys(GROUPS).map((name) => groups.get(name)).filter(Boolean)];
  }

  function chooser(label, chosen, columns, nothing, change, id) {
    const select = element("select", { id, onchange: (event) => change(event.target.value) },
                           ...options(chosen, columns, nothing));
    return element("label", { class: "chooser" }, element("span", {}, label), select);
  }

  /** Give an axis a column; if another axis has it, the two change places. */
  function setAxis(axis, name) {
    const change = { [axis]: name };
    const other = farm.AXES.find((one) => one !== axis && farm.state[one] === name);
    if (name && other) change[other] = farm.state[axis];
    farm.set(change);
  }

  function drawAxes() {
    const { state } = farm;
    const able = farm.columns.filter(varies);
    const parts = farm.AXES.map((axis) =>
      chooser(AXIS_NAMES[axis], state[axis], able, "-", (name) => setAxis(axis, name), `axis-${axis}`));
    parts.push(element("button", {
      type: "button", class: "quiet", title: "Swap across and down  (t)", id: "swap",
      "aria-label": "Swap across and down", onclick: farm.swapAxes,
    }, "⇄"));
    const sortable = farm.columns.filter((column) => column.name !== "image_path");
    const sort = state.sort.replace(/^-/, "");
    parts.push(element("span", { class: "spacer" }));
    const sorting = chooser("sort", sort, sortable, "job order", (name) => farm.set({ sort: name }), "sort");
    parts.push(sorting);
    if (sort) {
      const isDown = state.sort.startsWith("-");
      sorting.append(element("button", {
        type: "button", class: "quiet", id: "direction", title: "Reverse the order",
        "aria-label": "Reverse the order",
        onclick: () => farm.set({ sort: isDown ? sort : `-${sort}` }),
      }, isDown ? "↓" : "↑"));
    }
    const numeric = farm.columns.filter((column) => column.numeric);
    parts.push(chooser("colour", state.color, numeric, "none", (name) => farm.set({ color: name }), "color"));
    if (farm.scale) parts.push(legend());
    const size = element("input", {
      type: "range", min: 24, max: 512, step: 4, value: farm.cellSize, id: "size",
      "aria-label": "Size of the pictures",
      oninput: (event) => farm.set({ size: Number(event.target.value) }),
    });
    parts.push(element("label", { class: "chooser" }, element("span", {}, "size"), size));
    replaceKeepingFocus($("axes"), parts);
  }

  function legend() {
    const bar = element("i", { class: "gradient" });
    const stops = Array.from({ length: 9 }, (_, i) => farm.colour(i / 8));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const { column, low, high } = farm.scale;
    return element("span", { class: "legend", title: column.doc }, farm.show(column, low), bar,
                   farm.show(column, high));
  }

  /** Draw a bar again without taking the focus from whoever is using it. */
  function replaceKeepingFocus(place, parts) {
    const held = document.activeElement;
    const id = place.contains(held) ? held.id : "";
    if (held?.type === "range" && id && parts.some((part) => part.querySelector?.(`#${CSS.escape(id)}`))) {
      const fresh = parts.find((part) => part.querySelector?.(`#${CSS.escape(id)}`));
      fresh.querySelector(`#${CSS.escape(id)}`).replaceWith(held); // a slider that is being dragged
    }
    place.replaceChildren(...parts);
    if (id) document.getElementById(id)?.focus();
  }

  farm.swapAxes = () => {
    const { x, y, sx, sy } = farm.state;
    farm.set({ x: y, y: x, sx: sy, sy: sx });
  };

  // --- the other axes --------------------------------------------------------------------------

  function drawRest() {
    $("rest").hidden = !farm.restAxes().length;
    replaceKeepingFocus($("rest"), farm.restAxes().map(restAxis));
  }

  function restAxis(name) {
    const column = farm.column(name);
    const at = farm.at(name);
    const keys = column.levels.map(farm.levelKey);
    const texts = column.levels.map((level) => farm.show(column, level));
    const isShort = texts.length <= FEW && texts.join("").length <= SHORT;
    const box = element("div", { class: "rest", role: "group", "aria-label": column.label },
                        element("span", { class: "name", title: column.doc }, column.label));
    const tab = (key, text, index) => element("button", {
      type: "button", class: "tab", id: `at-${name}-${index}`, "aria-pressed": String(at === key),
      onclick: () => setAt(name, key),
    }, text);
    box.append(tab("*", "all", "all"));
    if (isShort) box.append(...keys.map((key, i) => tab(key, texts[i], i)));
    else box.append(...slider(name, keys, texts, at));
    return box;
  }

  function slider(name, keys, texts, at) {
    const place = Math.max(0, keys.indexOf(at));
    const shown = element("output", { title: texts[place] }, at === "*" ? "" : texts[place]);
    return [
      element("button", { type: "button", class: "quiet", "aria-label": `Previous ${name}`,
                          onclick: () => farm.stepAt(name, -1) }, "‹"),
      element("input", { type: "range", min: 0, max: keys.length - 1, value: place, id: `at-${name}`,
                         class: at === "*" ? "idle" : "", "aria-label": name,
                         oninput: (event) => setAt(name, keys[Number(event.target.value)]) }),
      element("button", { type: "button", class: "quiet", "aria-label": `Next ${name}`,
                          onclick: () => farm.stepAt(name, 1) }, "›"),
      shown,
    ];
  }

  const setAt = (name, key) => farm.set({ at: { ...farm.state.at, [name]: key } });

  /** Move one of the other axes by a step, round and round. */
  farm.stepAt = (name, step) => {
    const keys = farm.column(name).levels.map(farm.levelKey);
    const at = keys.indexOf(farm.at(name));
    const next = at < 0 ? (step > 0 ? 0 : keys.length - 1) : (at + step + keys.length) % keys.length;
    setAt(name, keys[next]);
  };

  // --- filters ---------------------------------------------------------------------------------

  const isFiltered = ({ levels, min, max, has }) =>
    Boolean(levels?.size || has || min !== undefined || max !== undefined);

  farm.setFilter = (name, filter) => {
    const filters = { ...farm.state.filters };
    if (isFiltered(filter)) filters[name] = filter;
    else delete filters[name];
    farm.set({ filters });
  };

  farm.clearFilters = () => farm.set({ filters: {}, q: "" });

  const opened = new Set();
  const wantedText = new Map();

  function drawFilters() {
    const panel = $("filters");
    if (panel.hidden) return;
    const top = panel.scrollTop;
    const held = panel.contains(document.activeElement) ? document.activeElement : null;
    const [id, caret] = [held?.id, held?.selectionStart];
    const able = farm.columns.filter((column) => column.name !== "image_path" && column.name !== "place"
      && (!column.isListed || column.levels.length > 1 || column.kind === "set"));
    const parts = [element("div", { class: "panel-head" }, element("h2", {}, "Filters"),
      element("button", { type: "button", class: "quiet", onclick: farm.clearFilters }, "Clear"),
      element("button", { type: "button", class: "quiet", "aria-label": "Close filters",
                          onclick: farm.toggleFilters }, "✕"))];
    for (const [group, title] of Object.entries(GROUPS)) {
      const columns = able.filter((column) => column.group === group);
      if (columns.length) parts.push(element("h3", {}, title), ...columns.map(filterOf));
    }
    panel.replaceChildren(...parts);
    panel.scrollTop = top;
    if (id) {
      const again = document.getElementById(id);
      again?.focus({ preventScroll: true });
      if (caret !== null && caret !== undefined && again?.type === "search") again.setSelectionRange(caret, caret);
    }
  }

  function filterOf(column) {
    const filter = farm.state.filters[column.name] || {};
    const isActive = isFiltered(filter);
    const box = element("details", { class: isActive ? "filter active" : "filter",
                                     "data-column": column.name,
                                     open: isActive || opened.has(column.name) });
    box.append(element("summary", { title: column.doc }, column.label));
    box.addEventListener("toggle", () => {
      if (box.open === opened.has(column.name)) return;
      if (box.open) opened.add(column.name);
      else opened.delete(column.name);
      if (box.open && box.childElementCount === 1) fillFilter(box, column, filter);
    });
    if (box.open) { opened.add(column.name); fillFilter(box, column, filter); }
    return box;
  }

  function fillFilter(box, column, filter) {
    if (column.kind === "text") { box.append(textFilter(column, filter)); return; }
    if (column.numeric && column.levels.length !== 2) box.append(rangeFilter(column, filter));
    if (column.isListed) box.append(...levelFilter(column, filter));
  }

  function textFilter(column, filter) {
    return element("input", { type: "search", id: `has-${column.name}`, value: filter.has || "",
      placeholder: "contains ...", "aria-label": `${column.label} contains`,
      oninput: (event) => farm.setFilter(column.name, { ...filter, has: event.target.value }) });
  }

  function rangeFilter(column, filter) {
    const extent = farm.extent(column, Array.from({ length: farm.rows }, (_, row) => row));
    const isTime = column.kind === "time";
    const field = (end, verb) => element("input", {
      type: isTime ? "datetime-local" : "number", step: "any", id: `${end}-${column.name}`,
      value: filter[end] === undefined ? "" : isTime ? new Date(filter[end]).toISOString().slice(0, 19) : filter[end],
      placeholder: extent ? farm.show(column, end === "min" ? extent.low : extent.high) : "",
      "aria-label": `${column.label} ${verb}`,
      onchange: (event) => {
        const text = event.target.value;
        const number = isTime ? Date.parse(`${text}Z`) : Number(text);
        const next = { ...filter };
        if (text === "" || Number.isNaN(number)) delete next[end];
        else next[end] = number;
        farm.setFilter(column.name, next);
      },
    });
    return element("div", { class: "range" }, field("min", "at least"), element("span", {}, "to"),
                   field("max", "at most"));
  }

  function levelFilter(column, filter) {
    const counts = farm.levelCounts(column);
    const wanted = (wantedText.get(column.name) || "").toLowerCase();
    const codes = column.levels.map((_, code) => code);
    if (counts[column.levels.length]) codes.push(column.levels.length);
    const found = codes.filter((code) =>
      !wanted || farm.show(column, column.levels[code] ?? null).toLowerCase().includes(wanted));
    const parts = [];
    if (column.levels.length > 12) {
      parts.push(element("input", { type: "search", id: `find-${column.name}`, value: wantedText.get(column.name) || "",
        placeholder: `find among ${column.levels.length.toLocaleString("en")}`, "aria-label": `Find ${column.label}`,
        oninput: (event) => { wantedText.set(column.name, event.target.value); drawFilters(); } }));
    }
    for (const code of found.slice(0, LISTED)) {
      const level = column.levels[code] ?? null;
      const key = farm.levelKey(level);
      const box = element("input", { type: "checkbox", checked: filter.levels?.has(key) || false,
        id: `f-${column.name}-${code}`,
        onchange: (event) => {
          const levels = new Set(filter.levels);
          if (event.target.checked) levels.add(key);
          else levels.delete(key);
          farm.setFilter(column.name, { ...filter, levels });
        } });
      parts.push(element("label", { class: counts[code] ? "level" : "level none" }, box,
        element("span", { class: "value" }, farm.show(column, level)),
        element("span", { class: "count" }, counts[code].toLocaleString("en"))));
    }
    if (found.length > LISTED) {
      parts.push(element("p", { class: "hint" }, `and ${farm.count(found.length - LISTED, "more value")}; type to find them`));
    }
    return parts;
  }

  farm.toggleFilters = () => {
    const panel = $("filters");
    panel.hidden = !panel.hidden;
    document.body.classList.toggle("filtering", !panel.hidden);
    drawFilters();
    drawActions();
  };

  // --- what is filtered, as chips --------------------------------------------------------------

  function chip(text, remove) {
    return element("button", { type: "button", class: "chip", title: "Remove this filter", onclick: remove },
                   text, element("span", { "aria-hidden": "true" }, " ✕"));
  }

  function drawChips() {
    const { filters, q } = farm.state;
    const parts = [];
    if (q) parts.push(chip(`search: ${q}`, () => farm.set({ q: "" })));
    for (const [name, filter] of Object.entries(filters)) {
      const column = farm.column(name);
      const drop = (key) => () => { const next = { ...filter }; delete next[key]; farm.setFilter(name, next); };
      if (filter.levels?.size) {
        const shown = [...filter.levels].map((key) => {
          const level = column.levels.find((one) => farm.levelKey(one) === key);
          return farm.show(column, level ?? null);
        });
        parts.push(chip(`${column.label}: ${shown.join(" or ")}`, drop("levels")));
      }
      if (filter.has) parts.push(chip(`${column.label} has “${filter.has}”`, drop("has")));
      if (filter.min !== undefined) parts.push(chip(`${column.label} ≥ ${farm.show(column, filter.min)}`, drop("min")));
      if (filter.max !== undefined) parts.push(chip(`${column.label} ≤ ${farm.show(column, filter.max)}`, drop("max")));
    }
    $("chips").replaceChildren(...parts);
    $("chips").hidden = !parts.length;
  }

  // --- the first bar ---------------------------------------------------------------------------

  function drawActions() {
    const active = Object.keys(farm.state.filters).length;
    const button = (id, text, title, act, pressed) => element("button", {
      type: "button", id, title, onclick: act,
      "aria-pressed": pressed === undefined ? null : String(pressed),
    }, text);
    const parts = [
      button("open-layout", "Layout", "Axes, sort, colour and size", () => {
        document.body.classList.toggle("layout-open");
      }),
      button("open-filters", active ? `Filters · ${active}` : "Filters", "Filters  (f)", farm.toggleFilters, !$("filters").hidden),
    ];
    if (farm.state.compare.length) {
      parts.push(button("open-compare", `Compare · ${farm.state.compare.length}`,
        "Compare two images; Ctrl-click or c picks them", farm.showCompare));
    }
    if (farm.served) {
      parts.push(button("open-duel", "A/B", "Compare blindly  (b)", farm.showDuel));
      parts.push(element("a", { href: "run", id: "open-run", title: "Progress, workers, failures, logs" }, "Run"));
    }
    parts.push(button("theme", "◐", "Dark or light  (d)", farm.toggleTheme),
               button("open-help", "?", "Keys  (?)", farm.showHelp));
    $("actions").replaceChildren(...parts);
  }

  farm.toggleTheme = () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    remember("farm-theme", root.dataset.theme);
  };

  /** Some browsers keep nothing for pages from a disk; then a choice lasts as long as the page. */
  function remember(key, value) {
    try { localStorage.setItem(key, value); } catch { /* nothing to do about it */ }
  }
  farm.remember = remember;
  farm.recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  farm.drawControls = (shown) => {
    $("title").textContent = farm.meta.title;
    $("title").title = farm.meta.output;
    document.title = `${farm.meta.title} · farm`;
    const parts = [shown === farm.rows ? farm.count(farm.rows, "cell")
      : `${shown.toLocaleString("en")} of ${farm.count(farm.rows, "cell")}`];
    const statuses = farm.column("status");
    const count = (status) => {
      const code = statuses.levels.indexOf(status);
      if (code < 0) return 0;
      return farm.shownRows.reduce((sum, row) => sum + Number(statuses.values[row] === code), 0);
    };
    if (count("failed")) parts.push(`${count("failed").toLocaleString("en")} failed`);
    if (count("missing")) parts.push(`${count("missing").toLocaleString("en")} to do`);
    if (farm.meta.unseen) parts.push(`${farm.meta.unseen.toLocaleString("en")} more to do, not listed`);
    $("counts").textContent = parts.join(" · ");
    if (document.activeElement !== $("search")) $("search").value = farm.state.q;
    drawActions();
    drawAxes();
    drawRest();
    drawChips();
    drawFilters();
  };

  const KEYS = [
    ["← → ↑ ↓", "move; in an open image, go to its neighbour"],
    ["Enter", "open the image in focus"], ["Esc", "close"],
    ["[  ]", "step the first of the other axes"], [",  .", "previous and next image in order"],
    ["t", "swap across and down"], ["+  -", "larger, smaller"],
    ["c", "pick for comparing; the second one opens the comparison"],
    ["/", "search"], ["f", "filters"], ["d", "dark or light"], ["0", "reset the layout"],
  ];
  const SERVED_KEYS = [
    ["1 ... 5", "stars; the same again takes them back"], ["h", "favourite"], ["x", "reject"],
    ["g", "tags"], ["n", "note"], ["b", "compare blindly (A/B)"],
  ];

  farm.showHelp = () => {
    const dialog = $("help");
    const keys = farm.served ? [...KEYS, ...SERVED_KEYS] : KEYS;
    dialog.replaceChildren(
      element("h2", {}, "Keys"),
      element("dl", {}, ...keys.flatMap(([key, text]) => [element("dt", {}, key), element("dd", {}, text)])),
      element("p", { class: "hint" }, "Words in the search must all occur; -word must not; \"two words\" are one."),
      element("form", { method: "dialog" }, element("button", {}, "Close")));
    dialog.showModal();
  };

  farm.startControls = () => {
    const theme = farm.recall("farm-theme");
    if (theme) document.documentElement.dataset.theme = theme;
    let timer = 0;
    $("search").addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => farm.set({ q: event.target.value.trim() }), 120);
    });
    $("clear").addEventListener("click", farm.clearFilters);
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target.matches?.("input:not([type=checkbox]):not([type=range]), textarea, select");
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping) {
        if (event.key === "Escape" && isTyping) event.target.blur();
        return;
      }
      if (document.querySelector("dialog[open]")) return; // dialogs have keys of their own
      const act = {
        "/": () => $("search").focus(), f: farm.toggleFilters, t: farm.swapAxes, d: farm.toggleTheme,
        "?": farm.showHelp, 0: farm.reset,
        "+": () => farm.set({ size: Math.min(512, farm.cellSize + 16) }),
        "-": () => farm.set({ size: Math.max(24, farm.cellSize - 16) }),
        "[": () => farm.restAxes()[0] && farm.stepAt(farm.restAxes()[0], -1),
        "]": () => farm.restAxes()[0] && farm.stepAt(farm.restAxes()[0], 1),
        c: () => farm.focusedRows().length && farm.pick(farm.focusedRows()[0]),
        b: () => farm.served && farm.showDuel(),
      }[event.key];
      if (act) { act(); event.preventDefault(); return; }
      if (farm.served && farm.focusedRows().length) {
        if (farm.voteByKey(event.key, farm.focusedRows()[0])) event.preventDefault();
      }
    });
  };
})();
